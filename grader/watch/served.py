"""The newest page of results, for a browser on this machine.

The server listens on loopback only. Other users of the machine can reach loopback, too, so the
address holds a secret. Requests that name another host are refused, so that no foreign page can
make a browser read ours under another host name (DNS rebinding).
"""

from __future__ import annotations

import secrets
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from grader.errors import UsageError

LOOPBACK = "127.0.0.1"
WAIT = 20.0  # s until a browser that waits for a newer page asks again
SLOW = 30.0  # s in which a browser has to send its request


class Served:
    """`publish` may be called from any thread; an open page then loads itself again."""

    def __init__(self, port: int = 0):
        """port  0: a free one

        Raises UsageError if the port is taken.
        """
        self.secret = secrets.token_urlsafe(16)
        self._news = threading.Condition()
        self._page, self._version, self._closed = b"", 0, False
        try:
            self._server = _Server((LOOPBACK, port), _Handler)
        except OSError as e:
            why = f"--port {port}: {e.strerror}; leave out --port to get a free one"
            raise UsageError(why) from e
        self._server.served = self
        self.port = self._server.server_address[1]
        self.address = f"http://{LOOPBACK}:{self.port}/{self.secret}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def version(self) -> int:
        """Of the newest page: how many there were."""
        return self._version

    def publish(self, page: str) -> None:
        with self._news:
            self._page, self._version = page.encode(), self._version + 1
            self._news.notify_all()

    def page(self) -> bytes:
        with self._news:
            return self._page

    def newer_than(self, version: int) -> bool:
        """Wait for one; False if none came for a while."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._version > version, WAIT)
            return self._version > version

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a browser may keep its connection open
    served: Served

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # that the browser has gone is no error
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SLOW

    def do_GET(self) -> None:
        served = self.server.served
        allowed = {f"{host}:{served.port}" for host in (LOOPBACK, "localhost")}
        if self.headers.get("Host") not in allowed:
            return self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        secret, _, what = self.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(secret.encode(), served.secret.encode()):
            return self.send_error(HTTPStatus.NOT_FOUND)
        if what == "":
            return self._answer(HTTPStatus.OK, served.page())
        number = what.removeprefix("newer-than/")
        if number == what or not number.isdecimal():
            return self.send_error(HTTPStatus.NOT_FOUND)
        newer = served.newer_than(int(number))
        return self._answer(HTTPStatus.OK if newer else HTTPStatus.NO_CONTENT, b"")

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal shows verdicts."""
