"""The output of verbs that run until they are stopped."""

from django.core.management.base import OutputWrapper


class Screen:
    """The output: lines and, on a terminal, one changing line below them."""

    def __init__(self, stdout: OutputWrapper) -> None:
        self._stdout = stdout
        self._clear = "\r\x1b[K" if stdout.isatty() else ""
        self._shown = ""

    def say(self, text: str) -> None:
        """Print a line, or several."""
        self._stdout.write(self._clear + text)
        self._stdout.flush()
        self._shown = ""

    def show(self, text: str) -> None:
        """Show a line on a terminal; the next call replaces it."""
        if self._clear and text != self._shown:
            self._stdout.write(self._clear + text, ending="")
            self._stdout.flush()
            self._shown = text
