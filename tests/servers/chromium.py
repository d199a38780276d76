"""A headless Chromium, and a site of the test project under a strict content security policy."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from .process import ServerUnavailable

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

POLICY = "default-src 'none'; " + "; ".join(
    f"{kind} 'self'"
    for kind in ("script-src", "style-src", "img-src", "connect-src", "font-src", "form-action")
)
"""Nothing inline, and nothing from elsewhere."""

LIMIT_S = 180.0
"""The seconds for one step of the browser."""


def under_policy(get_response: Any) -> Any:
    """Return a middleware that sends the strict policy, for a Django that has none of its own."""

    def respond(request: Any) -> Any:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return respond


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection: a browser also opens some that it does not use yet."""

    daemon_threads = True
    block_on_close = False


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving_site() -> Iterator[str]:
    """Serve this process's project, with its static files, on a thread; yield its address."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.handlers.wsgi import WSGIHandler

    handler = StaticFilesHandler(WSGIHandler())
    with make_server("127.0.0.1", 0, handler, _Server, _Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browser() -> Iterator["Chrome"]:
    """Yield a headless Chromium, driven by chromedriver. Raises ServerUnavailable without one."""
    try:
        from selenium import webdriver
        from selenium.common.exceptions import WebDriverException
    except ImportError as error:
        raise ServerUnavailable("There is no selenium: it is in the group `browser`.") from error
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise ServerUnavailable(
            "There is no chromium with its chromedriver. On Debian: apt-get install chromium-driver"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--lang=en", f"--user-data-dir={Path(profile) / str(os.getpid())}",
        ):  # fmt: skip
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path=driver)
        try:
            chrome = webdriver.Chrome(options=options, service=service)
        except WebDriverException as error:
            raise ServerUnavailable(f"Chromium does not start: {error}") from error
        try:
            chrome.set_page_load_timeout(LIMIT_S)
            chrome.set_script_timeout(LIMIT_S)
            yield chrome
        finally:
            chrome.quit()
