"""The output of verbs that run until they are stopped."""

import os

from django.core.management.base import OutputWrapper


class Screen:
    """The output: lines and, on a terminal, one changing line below them.

    Both methods raise OSError once the terminal is closed, or the pipe has no reader.
    """

    def __init__(self, stdout: OutputWrapper) -> None:
        self._stdout = stdout
        self._clear = "\r\x1b[K" if stdout.isatty() else ""
        self._shown = ""

    def say(self, text: str) -> None:
        """Print a line, or several."""
        self._write(text)
        self._shown = ""

    def show(self, text: str) -> None:
        """Show a line on a terminal; the next call replaces it."""
        if self._clear and text != self._shown:
            self._write(text, ending="")
            self._shown = text

    def clear(self) -> None:
        """Remove the changing line."""
        self._write("", ending="")
        self._shown = ""

    def _write(self, text: str, ending: str = "\n") -> None:
        try:
            self._stdout.write(self._clear + text, ending=ending)
            self._stdout.flush()
        except OSError:
            abandon(self._stdout)
            raise


def escape_the_rest(stdout: OutputWrapper) -> None:
    """Let letters that the terminal's encoding lacks appear as escapes, instead of as an error.

    Python does so with standard error.
    """
    reconfigure = getattr(stdout, "reconfigure", None)
    if reconfigure is not None:  # a StringIO takes all letters
        reconfigure(errors="backslashreplace")


def abandon(stdout: OutputWrapper) -> None:
    """Let nobody get what is still to be written, as nobody reads it any more.

    Python would try to write the rest as it exits, and fail.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout.fileno())
    os.close(nowhere)
