"""`grade watch --serve`: who may see the newest page, and when a browser learns of it."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
import threading
import urllib.error
import urllib.request

import pytest

from grader import explain
from grader.errors import UsageError
from grader.processes import kill_session
from grader.report import html
from grader.tests.cli.test_page import browser, headless
from grader.watch.served import Served


@pytest.fixture
def served():
    with contextlib.closing(Served()) as one:
        one.publish("<p>first</p>")
        yield one


def get(address: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, ""


def test_it_shows_the_newest_page(served):
    assert get(served.address) == (200, "<p>first</p>")
    served.publish("<p>second</p>")
    assert get(served.address) == (200, "<p>second</p>")


def test_a_browser_waits_for_a_newer_page(served):
    said = []
    asking = threading.Thread(target=lambda: said.append(get(f"{served.address}newer-than/1")))
    asking.start()
    served.publish("<p>second</p>")
    asking.join(60)
    assert said == [(200, "")]
    assert get(f"{served.address}newer-than/1") == (200, "")  # it came before it was asked


def test_who_waits_is_told_when_the_watching_ends():
    served, said = Served(), []

    def ask() -> None:
        with contextlib.suppress(OSError):
            said.append(get(f"{served.address}newer-than/0"))

    asking = threading.Thread(target=ask)
    asking.start()
    served.close()
    asking.join(10)
    assert not asking.is_alive() and said in ([], [(204, "")])


def test_a_browser_that_goes_away_is_no_error(served, capfd):
    with socket.create_connection(("127.0.0.1", served.port)) as gone:
        path = served.address.partition(f"{served.port}")[2]
        request = f"GET {path}newer-than/1 HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n"
        gone.sendall(request.encode())
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    served.publish("<p>second</p>" * 100_000)
    assert get(served.address)[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "path", ["", "x/", "../", "newer-than/0", "{secret}x/", "{secret}/newer-than/x", "{secret}/etc"]
)
def test_without_the_secret_there_is_nothing(served, path):
    address = f"http://127.0.0.1:{served.port}/{path.format(secret=served.secret)}"
    assert get(address)[0] == 404


def test_a_page_from_elsewhere_cannot_ask_under_its_own_name(served):
    assert get(served.address, Host=f"elsewhere.example:{served.port}")[0] == 421


def test_it_listens_on_loopback_only(served):
    assert served._server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_named(served):
    with pytest.raises(UsageError, match=f"--port {served.port}: .* in use"):
        Served(served.port)


def test_a_served_page_watches_and_another_one_does_not(served, tmp_path):
    text = html.page([], explain.explanations(), live=html.Live(2, "grading ex01"))
    assert "connect-src" in text
    assert "connect-src" not in html.page([], explain.explanations())
    served.publish(text)
    shown = browser(tmp_path, "--timeout=2000", "--dump-dom", served.address)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    (live,) = re.findall(r'<p [^>]*id="live"[^>]*>(.*?)</p>', shown.stdout)
    assert live == "grading ex01"


def test_an_open_page_loads_itself_again(served, tmp_path):
    """The page with the older number asks for a newer one, which is there already."""
    served.publish(html.page([], explain.explanations(), live=html.Live(1, "the older one")))
    shown, newest = [], threading.Event()

    def page() -> bytes:
        shown.append(served.version)
        if len(shown) == 2:
            newest.set()
        return Served.page(served)

    served.page = page
    with browsing(tmp_path, served.address):
        assert newest.wait(60), shown


@contextlib.contextmanager
def browsing(folder, address: str):
    """A browser that keeps the page open."""
    process = subprocess.Popen(
        [*headless(folder), address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        kill_session(process.pid)
        process.wait()
