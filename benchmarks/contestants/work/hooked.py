"""Hooks that do nothing at the start and the end of each attempt, to measure what calls cost."""

from lambda_tasks import hooks


@hooks.started.connect
def start(run: hooks.Started) -> None: ...


@hooks.ended.connect
def end(run: hooks.Ended) -> None: ...
