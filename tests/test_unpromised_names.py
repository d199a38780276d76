"""Names of others that no documentation promises: each is there, and means what we need of it.

ARCHITECTURE.md has the table of them. Where one is gone, the test that fails says what it says.
"""

import ast
import asyncio
import inspect
import multiprocessing
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp
import anyio
import pytest
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import get_session
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from botocore.loaders import create_loader
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management.base import BaseCommand, OutputWrapper
from django.db import DatabaseError, connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState
from django.db.models.sql import InsertQuery, UpdateQuery
from django.db.transaction import mark_for_rollback_on_error
from django.db.utils import ConnectionHandler
from django.utils import timezone
from django.utils.asyncio import async_unsafe
from django.utils.module_loading import module_has_submodule

import lambda_tasks
import tests.app.views
from lambda_tasks.backends import compat
from lambda_tasks.models import TaskRecord
from tests.app import django_tasks

PACKAGE = Path(lambda_tasks.__file__).parent
ARCHITECTURE = PACKAGE.parent / "ARCHITECTURE.md"
TITLE = "## Names of others that are not promised\n"

DOCUMENTED = {"_exit", "_meta", "_base_manager"}
"""Names with an underscore that are promised: Python's os._exit(), Django's model classes."""

OWN = {"each._client", "changed._overrides"}
"""Other objects of a class than `self`, within it."""

CHECKS: dict[tuple[str, ...], Callable[[], None]] = {}
"""What has to hold of the names of a row. Raises where it doesn't."""

SHOWN_BY: dict[tuple[str, ...], str] = {
    ("_endpoint", "http_session", "_proxy_config", "_get_session"): (
        "tests/test_lean.py::test_a_lean_request_differs_from_botocores_in_nothing_that_matters"
    ),
    (
        "_make_api_call",
        "_make_request",
        "_endpoint",
        "http_session",
        "make_request",
        "_send_request",
        "create_request",
        "prepare_request",
    ): "tests/test_lean.py::test_a_tracer_that_wraps_botocores_methods_sees_each_call",
    ("_emitter", "_handlers", "prefix_search"): (
        "tests/test_lean.py::test_a_hook_that_is_given_to_each_client_sees_each_call"
    ),
    ("KeyTransform",): (
        "tests/test_operations.py::test_an_argument_may_have_the_name_of_a_lookup"
    ),
    ("DJANGO_AUTO_COMPLETE", "COMP_WORDS", "COMP_CWORD"): (
        "tests/test_verbs.py::test_bash_completes_verbs_options_and_the_names_of_tasks"
    ),
    ("_lookup_cache",): (
        "tests/test_lean.py::test_a_hook_that_comes_later_sees_each_call_from_then_on"
    ),
    ("get_config_variable", "get_scoped_config", "full_config"): (
        "tests/test_sqs_transport.py"
        "::test_an_endpoint_of_aws_configuration_is_followed_as_botocore_follows_it"
    ),
    ("register_last",): (
        "tests/test_lean.py::test_a_lean_request_differs_from_botocores_in_nothing_that_matters"
    ),
    ("method_to_api_mapping",): (
        "tests/test_lean.py::test_a_lean_request_differs_from_botocores_in_nothing_that_matters"
    ),
    ("add_recursion_detection_header",): (
        "tests/test_lean.py::test_lambda_sees_a_function_that_enqueues_for_itself"
    ),
    ("_cache", "get_client"): (
        "tests/test_handler.py::test_where_the_cache_is_redis_it_holds_the_singletons_lock"
    ),
    ("_SHUTTING_DOWN",): (
        "tests/test_hooks.py::test_async_hooks_are_called_beside_before_a_script_ends"
    ),
    ("_from_testcase",): (
        "tests/test_enqueue.py::test_it_works_under_capture_on_commit_callbacks"
    ),
    ("_read_timeout",): (
        "tests/test_silence.py::test_a_connection_that_has_been_opened_has_no_limit_for_what_it_is_asked"
    ),
    ("_sock",): (
        "tests/test_silence.py::test_a_task_whose_connection_falls_silent_has_its_hard_timeout"
    ),
    ("server_status",): (
        "tests/test_sessions.py"
        "::test_a_task_may_commit_by_hand_and_leaves_no_connection_without_autocommit"
    ),
    ("ministack.app",): "tests/test_local_sqs.py::test_a_message_that_is_sent_can_be_received",
    (
        "collect_sql", "deferred_sql", "introspection", "get_constraints", "get_table_description",
        "table_names", "supports_table_check_constraints", "allow_migrate_model", "concurrently",
    ): "tests/test_migrations.py::test_cut_off_after_each_single_change_it_gets_there",
    (
        "MigrationExecutor", "migration_plan", "leaf_nodes", "applied_migrations",
        "disk_migrations",
    ): "tests/test_doctor.py::test_migrations_that_are_missing_here_or_there_are_found",
    ("quote_name",): (
        "tests/test_migrations.py::test_the_predecessors_rows_come_along_and_can_go_back"
    ),
}  # fmt: skip
"""Tests that stand elsewhere, and fail where these names are gone."""


@dataclass(frozen=True)
class Row:
    """One of the table."""

    names: tuple[str, ...]
    whose: str
    files: tuple[str, ...]
    when_gone: str
    then: str

    @property
    def advice(self) -> str:
        return (
            f"{', '.join(self.names)} of {self.whose}, used in {', '.join(self.files)}, is not what"
            f" we need. {self.when_gone} {self.then} ({ARCHITECTURE.name}, {TITLE[3:-1]!r})"
        )


@cache
def table() -> list[Row]:
    section = ARCHITECTURE.read_text().partition(TITLE)[2].partition("\n## ")[0]
    rows = []
    for line in section.splitlines():
        if line.startswith("| `"):
            names, whose, files, when_gone, then = (each.strip() for each in line[1:-1].split("|"))
            rows.append(Row(_quoted(names), whose, _quoted(files), when_gone, then))
    return rows


def _quoted(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def needed(*names: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(check: Callable[[], None]) -> Callable[[], None]:
        CHECKS[names] = check
        return check

    return register


def connection() -> Any:
    return connections["default"]


def test_the_table_has_what_is_held_to_here_and_nothing_else() -> None:
    rows = [row.names for row in table()]

    assert len(rows) == len(set(rows))
    assert set(rows) == CHECKS.keys() | SHOWN_BY.keys()


def test_the_files_of_the_table_use_its_names() -> None:
    for row in table():
        assert row.files, row
        for file in row.files:
            text = (PACKAGE / file).read_text()
            for name in row.names:
                assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text), f"{name} in {file}"


def test_what_is_shown_elsewhere_is_shown_there() -> None:
    for test in SHOWN_BY.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (PACKAGE.parent / path).read_text(), test


def test_private_names_of_others_are_in_the_table() -> None:
    listed = {(file, name) for row in table() for file in row.files for name in row.names}

    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name in _private_names(ast.parse(path.read_text()))
    }

    assert len(found) >= 8
    assert found <= listed, (
        f"{sorted(found - listed)}: do without, or add it to the table {TITLE[3:-1]!r} in "
        f"{ARCHITECTURE.name} and to this module."
    )


def _private_names(module: ast.Module) -> Iterator[str]:
    """Attributes of others that begin with an underscore, and imports of such names."""
    for node in ast.walk(module):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name):
                names = [] if ast.unparse(node) in OWN else [name]
            case ast.Call(args=[_, ast.Constant(value=str(name)), *_], func=func) if re.fullmatch(
                r"getattr|hasattr|setattr|object\.__setattr__", ast.unparse(func)
            ):
                names = [name]
            case ast.ImportFrom(module=str(name), level=0):
                names = [*name.split("."), *(each.name for each in node.names)]
            case ast.Import():
                names = [part for each in node.names for part in each.name.split(".")]
            case _:
                continue
        yield from (name for name in names if re.match(r"_(?!_)", name) and name not in DOCUMENTED)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("names", CHECKS, ids=lambda names: names[0])
def test_a_name_that_nobody_promises_still_means_what_we_need(names: tuple[str, ...]) -> None:
    row = next(row for row in table() if row.names == names)
    try:
        CHECKS[names]()
    except (Exception, pytest.fail.Exception) as error:
        raise AssertionError(row.advice) from error


# Django's connections


@needed("run_on_commit")
def _hooks_stand_in_a_list_with_their_savepoints() -> None:
    with suppress(InterruptedError), transaction.atomic():
        transaction.on_commit(lambda: None)
        with transaction.atomic():
            transaction.on_commit(_some_hook)
            savepoints, hook, *_ = connection().run_on_commit[-1]
            assert hook is _some_hook
            assert savepoints == set(connection().savepoint_ids)
            assert len(connection().run_on_commit) == 2
        raise InterruptedError
    assert not connection().run_on_commit


def _some_hook() -> None:
    pass


@needed("savepoint_ids")
def _each_savepoint_has_an_id() -> None:
    with transaction.atomic():
        outside = list(connection().savepoint_ids)
        with transaction.atomic():
            assert len(set(connection().savepoint_ids)) == len(outside) + 1
        assert connection().savepoint_ids == outside


@needed("commit", "commit_on_exit", "needs_rollback")
def _a_block_commits_by_the_connections_method_unless_it_needs_a_rollback() -> None:
    done: list[str] = []
    commit = connection().commit

    def see() -> None:
        assert connection().in_atomic_block is False
        done.append("commit")
        commit()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection(), "commit", see)
        with transaction.atomic():
            assert (connection().commit_on_exit, connection().needs_rollback) == (True, False)
        with transaction.atomic():
            transaction.set_rollback(True)
            assert connection().needs_rollback is True
    assert done == ["commit"]


@needed("atomic_blocks")
def _a_connection_has_a_list_of_its_blocks() -> None:
    assert connection().atomic_blocks == []
    with transaction.atomic(), transaction.atomic(savepoint=False):
        assert len(connection().atomic_blocks) == 2
    assert connection().atomic_blocks == []


@needed("in_atomic_block")
def _a_connection_knows_its_transaction() -> None:
    assert connection().in_atomic_block is False
    with transaction.atomic():
        assert connection().in_atomic_block is True


@needed("connection.connection")
def _a_connection_has_the_drivers() -> None:
    with connection().cursor():
        assert connection().connection is not None
    if connection().vendor == "postgresql":
        assert connection().connection.fileno() > 0
        assert connection().connection.info.transaction_status == 0
    connection().close()
    assert connection().connection is None


@needed("connect", "execute_wrappers")
def _a_connection_is_opened_by_its_method_and_shows_its_statements() -> None:
    opened: list[str] = []
    connection().close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection(), "connect", lambda: opened.append("now"))
        connection().ensure_connection()
    assert opened == ["now"]
    seen = []

    def see(execute: Any, sql: str, *args: Any) -> Any:
        seen.append(sql)
        return execute(sql, *args)

    connection().execute_wrappers.insert(0, see)
    try:
        with connection().cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection().execute_wrappers.remove(see)
    assert seen[-1:] == ["SELECT 1"]


@needed("autocommit", "close_if_health_check_failed")
def _a_connection_is_checked_before_each_use() -> None:
    connection().ensure_connection()
    assert connection().autocommit is True
    asked: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            connection(),
            "close_if_health_check_failed",
            lambda: asked.append(connection().autocommit),
        )
        with connection().cursor():
            assert asked == [True]
        with transaction.atomic():
            assert asked == [True, True]
    assert asked == [True, True, False]


@needed("errors_occurred")
@needed("is_usable")
def _a_connection_knows_whether_it_had_an_error() -> None:
    connection().ensure_connection()
    assert connection().errors_occurred is False
    with pytest.raises(DatabaseError), connection().cursor() as cursor:
        cursor.execute("SELECT of_no_table FROM nowhere")
    assert connection().errors_occurred is True
    assert connection().is_usable() is True
    connection().errors_occurred = False


@needed("initialized_only")
def _connections_tell_which_of_them_are_there() -> None:
    with connection().cursor():
        assert connection() in connections.all(initialized_only=True)


@needed("close_all")
def _connections_can_be_closed_together() -> None:
    connection().ensure_connection()
    connections.close_all()
    assert connection().connection is None


@needed("single_thread_executor", "dec_thread_sharing")
def _coroutines_use_the_connections_of_one_thread() -> None:
    there = SyncToAsync.single_thread_executor.submit(threading.get_ident).result()
    assert asyncio.run(sync_to_async(threading.get_ident)()) == there

    connection().inc_thread_sharing()
    connection().dec_thread_sharing()
    assert not connection().allow_thread_sharing


@needed("copy", "inc_thread_sharing")
def _a_copy_of_a_connection_can_be_used_on_another_thread() -> None:
    other = connection().copy()
    assert other is not connection()
    other.inc_thread_sharing()

    def use() -> None:
        with other.cursor() as cursor:
            cursor.execute("SELECT 1")

    with ThreadPoolExecutor(1) as another_thread:
        another_thread.submit(use).result()
        if other.vendor != "sqlite":  # whose databases in memory stay open
            another_thread.submit(other.close).result()


@needed("pool", "_connection_pools", "Database")
def _a_connection_has_a_pool_that_is_kept_by_its_alias() -> None:
    if connection().vendor != "postgresql":
        return
    pooled = _pooled_connection()
    assert pooled.pool is pooled._connection_pools["unpromised"]
    with pytest.raises(pooled.Database.OperationalError):
        pooled.pool.getconn()  # it is not open yet
    first = pooled._connection_pools.pop("unpromised")
    assert pooled.pool is not first


@needed("timeout")
def _a_pool_knows_how_long_it_waits() -> None:
    if connection().vendor == "postgresql":
        assert _pooled_connection().pool.timeout == 30


def _pooled_connection() -> Any:
    options = {"OPTIONS": {"pool": True}}
    databases = {"unpromised": connections.settings["default"] | options}
    pooled: Any = ConnectionHandler({"default": {}, **databases})["unpromised"]
    pooled._connection_pools.pop("unpromised", None)
    return pooled


@needed("settings_dict", "timezone_name")
def _a_connection_knows_its_settings() -> None:
    assert connection().settings_dict["OPTIONS"] is not None
    assert connection().timezone_name == "UTC"


@needed("has_select_for_update_skip_locked")
def _a_database_tells_whether_it_skips_locked_rows() -> None:
    can_skip = connection().features.has_select_for_update_skip_locked
    assert bool(can_skip) is (connection().vendor != "sqlite")


@needed("supports_partial_indexes")
def _a_database_tells_whether_it_has_partial_indexes() -> None:
    has_partial_indexes = connection().features.supports_partial_indexes
    assert bool(has_partial_indexes) is (connection().vendor != "mysql")


@needed("db_for_write")
def _the_router_names_a_database() -> None:
    assert router.db_for_write(TaskRecord) == "default"


@needed("BaseDatabaseWrapper")
def _connections_have_one_base() -> None:
    assert isinstance(connection(), BaseDatabaseWrapper)
    used_at = weakref.WeakKeyDictionary({connection(): 1.0})
    assert used_at[connection()] == 1.0


@needed("BaseDatabaseSchemaEditor", "ProjectState")
def _migrations_are_done_by_schema_editors() -> None:
    assert isinstance(connection().schema_editor(), BaseDatabaseSchemaEditor)
    assert isinstance(MigrationExecutor(connection()).loader.project_state(), ProjectState)


# Django's ORM


@needed("InsertQuery", "insert_values")
def _the_orm_composes_an_insert() -> None:
    query: Any = InsertQuery(TaskRecord)
    query.insert_values(TaskRecord._meta.concrete_fields, [TaskRecord(task_name="f", kwargs={})])
    (sql, params), *others = query.get_compiler("default").as_sql()
    assert sql.startswith("INSERT INTO ")
    assert "f" in params
    assert not others


@needed("UpdateQuery", "chain", "add_update_values", "clear_ordering", "get_compiler")
def _the_orm_composes_an_update() -> None:
    records = TaskRecord.objects.filter(task_name="of nobody")
    query: Any = records.query.chain(UpdateQuery)
    query.add_update_values({"queue": "other"})
    query.clear_ordering(force=True)
    sql, params = query.get_compiler(records.db).as_sql()
    assert sql.startswith("UPDATE ")
    assert sql.count("%s") == len(params) == 2
    assert "ORDER BY" not in sql
    assert set(params) == {"other", "of nobody"}


@needed("mark_for_rollback_on_error")
def _an_error_can_mark_a_transaction() -> None:
    with transaction.atomic():
        with suppress(InterruptedError), mark_for_rollback_on_error("default"):
            raise InterruptedError
        assert transaction.get_rollback() is True


# Django's other parts


@needed("module_has_submodule")
def _a_package_tells_which_modules_it_has() -> None:
    assert module_has_submodule(tests.app, "views")
    assert not module_has_submodule(tests.app, "no_such_module")


@needed("async_unsafe")
def _a_sync_form_is_refused_on_an_event_loop() -> None:
    @async_unsafe("say this")
    def sync() -> int:
        return 1

    async def call() -> None:
        with pytest.raises(SynchronousOnlyOperation, match="say this"):
            sync()

    assert sync() == 1
    asyncio.run(call())


@needed("is_overridden")
def _settings_tell_what_a_project_has_set() -> None:
    is_overridden: Any = settings.is_overridden  # type: ignore[misc]
    assert is_overridden("DATABASES") is True
    assert is_overridden("APPEND_SLASH") is False


@needed("OutputWrapper")
def _a_command_prints_by_a_wrapper() -> None:
    assert isinstance(BaseCommand().stdout, OutputWrapper)


# Django's tasks


@needed("_return_value")
def _a_results_value_can_be_set() -> None:
    now = timezone.now()
    result: Any = compat.TaskResult(
        task=django_tasks.add, id="1", status=compat.TaskResultStatus.SUCCESSFUL,
        enqueued_at=now, started_at=now, last_attempted_at=now, finished_at=now,
        args=[], kwargs={}, backend="default", errors=[], worker_ids=[],
    )  # fmt: skip
    object.__setattr__(result, "_return_value", {"a": 1})
    assert result.return_value == {"a": 1}
    assert replace(result, id="2").return_value is None


@needed(
    "normalize_json",
    "DEFAULT_TASK_BACKEND_ALIAS",
    "DEFAULT_TASK_PRIORITY",
    "DEFAULT_TASK_QUEUE_NAME",
)
def _what_tasks_have_by_default() -> None:
    normalize: Any = compat.normalize_json
    assert normalize({"a": (1, 2)}) == {"a": [1, 2]}
    with pytest.raises(TypeError):
        normalize(object())
    assert compat.DEFAULT_TASK_BACKEND_ALIAS == "default"
    assert compat.DEFAULT_TASK_PRIORITY == 0
    assert compat.DEFAULT_TASK_QUEUE_NAME == "default"


@needed("module_path")
def _a_task_knows_its_dotted_name() -> None:
    assert django_tasks.add.module_path == "tests.app.django_tasks.add"


@needed("get_backend")
def _a_task_knows_its_backend() -> None:
    task = django_tasks.add
    assert task.get_backend() is compat.task_backends[task.backend]


# asgiref


@needed("thread_sensitive_context")
def _coroutines_know_their_thread_sensitive_context() -> None:
    async def contexts() -> list[object]:
        found: list[object] = [SyncToAsync.thread_sensitive_context.get(None)]
        async with ThreadSensitiveContext():
            found.append(SyncToAsync.thread_sensitive_context.get(None))
            found.append(await asyncio.create_task(_value_of(SyncToAsync.thread_sensitive_context)))
        return found

    outside, inside, in_its_task = asyncio.run(contexts())
    assert outside is None
    assert inside is in_its_task is not None


async def _value_of(variable: Any) -> object:
    return variable.get(None)


@needed("ThreadSensitiveContext")
def _a_context_sends_its_sync_calls_to_our_executor() -> None:
    class Executor(ThreadPoolExecutor):
        submitted = 0

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            self.submitted += 1
            return super().submit(*args, **kwargs)

    async def hop(executor: Executor) -> list[int]:
        async with ThreadSensitiveContext(executor=executor):
            return [
                await sync_to_async(threading.get_ident)(),
                await asyncio.create_task(sync_to_async(threading.get_ident)()),
            ]

    with Executor(1) as executor:
        own = executor.submit(threading.get_ident).result()
        assert asyncio.run(hop(executor)) == [own, own]
        assert executor.submitted == 3


# AWS's client


@needed("create_loader", "register_component", "load_service_model", "set_credentials")
def _a_session_loads_its_descriptions_before_it_is_used() -> None:
    session = get_session()
    loader = create_loader(session.get_config_variable("data_path"))
    session.register_component("data_loader", loader)
    assert session.get_component("data_loader") is loader
    model = loader.load_service_model("sqs", "service-2")
    assert "SendMessageBatch" in model["operations"]
    session.set_credentials("key", "secret", None)
    credentials = async_to_sync(session.get_credentials)()
    assert (credentials.access_key, credentials.secret_key) == ("key", "secret")


@needed("get_frozen_credentials")
def _credentials_are_frozen_by_a_coroutine() -> None:
    frozen = async_to_sync(AioCredentials("key", "secret", "token").get_frozen_credentials)()
    assert (frozen.access_key, frozen.secret_key, frozen.token) == ("key", "secret", "token")


@needed("Connection timeout")
def _an_error_says_that_there_was_no_connection() -> None:
    class InVain(aiohttp.TCPConnector):
        async def connect(self, *args: Any, **kwargs: Any) -> Any:
            raise TimeoutError

    async def connect() -> None:
        async with aiohttp.ClientSession(connector=InVain()) as session:
            await session.post("http://127.0.0.1/")

    with pytest.raises(TimeoutError, match=r"^Connection timeout"):
        asyncio.run(connect())


# Python, and what runs on it


@needed("ensure_running")
def _a_fork_server_can_be_started_early() -> None:
    code = """
import multiprocessing, os
from multiprocessing import forkserver
multiprocessing.get_context("forkserver").set_forkserver_preload(["json"])
forkserver.ensure_running()
process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
process.start()
process.join()
print(process.exitcode)
"""
    # In a process of its own, as this one's fork server is to load the project.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0", done.stderr


@needed("_forkserver", "_forkserver_pid")
def _the_fork_server_is_known() -> None:
    code = """
import os, signal
from multiprocessing import forkserver
assert forkserver._forkserver._forkserver_pid is None
forkserver.ensure_running()
os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
print(os.waitpid(forkserver._forkserver._forkserver_pid, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(int(signal.SIGKILL)), done.stderr


@needed("ForkServerContext")
@needed("BaseProcess")
def _a_fork_servers_processes_have_their_classes() -> None:
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess

    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    assert isinstance(context.Process(), BaseProcess)


@needed("__aexit__", "_aexit")
def _the_frame_at_a_groups_end_has_the_group() -> None:
    async def look_at_the_end_of(group: Any, start: Callable[[], Any]) -> None:
        async def wait_for_the_group() -> None:
            async with group:
                start()

        waiting = wait_for_the_group()
        task = asyncio.create_task(waiting)
        for _ in range(10):
            await asyncio.sleep(0)
        coroutine: Any = waiting
        frame: FrameType | None = None
        while inspect.iscoroutine(coroutine):
            frame, coroutine = coroutine.cr_frame, coroutine.cr_await
        assert frame is not None
        assert frame.f_code.co_name in ("__aexit__", "_aexit")
        assert frame.f_locals["self"] is group
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def look() -> None:
        of_asyncio, of_anyio = asyncio.TaskGroup(), anyio.create_task_group()
        await look_at_the_end_of(of_asyncio, lambda: of_asyncio.create_task(asyncio.sleep(60)))
        await look_at_the_end_of(of_anyio, lambda: of_anyio.start_soon(asyncio.sleep, 60))

    asyncio.run(look())


@needed("consume_input", "notifies")
def _a_connection_can_be_asked_for_notifications() -> None:
    if connection().vendor != "postgresql":
        return
    with connection().cursor() as cursor:
        cursor.execute("LISTEN unpromised")
        cursor.execute("NOTIFY unpromised")
    driver = connection().connection
    driver.pgconn.consume_input()
    while driver.pgconn.notifies():
        pass
    assert driver.pgconn.notifies() is None
