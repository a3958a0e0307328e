"""The results as a page: complete, well formed, on its own, and safe whatever a life printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from grader import explain
from grader.report import history, html, page_figures
from grader.tests.checks.test_run_assertions import KILL, UNDISTURBED, life, run
from grader.verdicts import BLOCKED, FAIL, PASS, ExerciseResult, Finding, Outcome, TaskResult

HOSTILE = '<script>document.title = "owned"</script><img src=x onerror=alert(1)>"\'</pre>{{ 7*7 }}'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VOID = {"meta", "link", "br", "img", "hr", "input"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[ExerciseResult]:
    """A grading with a failing, a blocked and a passed task; the failing one's life is hostile."""
    folder = tmp_path_factory.mktemp("life")
    (folder / "output").write_text(HOSTILE + "\n\x1b[31mred\n")
    failing = run(life(1, 3, fault=KILL), life(3, lost=3), faults=(KILL,))
    printing = failing.lives[1]
    printing.process.folder = folder
    for e in printing.all("step"):
        e["state"] |= {HOSTILE: "x"}
        e["indices"] = [e["step"] - 1]
    for one in (*failing.lives, *UNDISTURBED.lives):
        for e in one.events:
            e.setdefault("t", 1.0)
    files = {"as_called": [[HOSTILE, "3 bytes", "x"]], "on_disk": []}
    finding = Finding(
        "state-lost",
        [("found", HOSTILE)],
        "kill@3",
        disk_state={"files": files, "crash": HOSTILE, "events": [HOSTILE]},
    )
    outcome = Outcome("test_x", "x", "ex01.1", FAIL, 0, 1, finding, {}, [UNDISTURBED, failing])
    rows = [["check", "x"], ["found", HOSTILE], ["replay", "grade ex01.1/x --seed 1"]]
    evidence = {"rows": rows, "code": "state-lost"}
    failed = TaskResult("ex01.1", "round trip", FAIL, 0, 4, 2.0, "", evidence)
    failed.history = history.of_task([outcome], str, lambda outcome: "grade ex01.1/x --seed 1")
    blocked = TaskResult("ex01.2", "randomness", BLOCKED, 0, 4, 0.0, "")
    passed = TaskResult("ex01.5", "retention", PASS, 3, 3, 1.0, "")
    return [ExerciseResult("ex01", "checkpoints", [failed, blocked, passed], 3.0, 5, 1, "none")]


@pytest.fixture(scope="module")
def text(results) -> str:
    return html.page(results, explain.explanations())


class Page(HTMLParser):
    """Its elements; `wrong` holds end tags that end nothing."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.elements if tag in tags]


def test_it_is_well_formed_and_has_every_task(text):
    page = Page(text)
    assert not page.wrong and not page.open
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) and {"ex01.1", "ex01.2", "ex01.5", "code-state-lost"} <= {*ids}
    links = [attrs["href"] or "" for attrs in page.all("a")]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    for attrs in page.all("svg"):
        named = (attrs.get("aria-labelledby") or "").split()
        assert {*named} <= {*ids}


def test_it_asks_nothing_of_elsewhere(text):
    for tag, attrs in Page(text).elements:
        for name, value in attrs.items():
            assert name not in ("src", "srcset", "style") and not name.startswith("on"), (tag, name)
            if name in ("href", "action", "data"):
                assert re.match("#|data:,", value or ""), (tag, value)
    assert not re.search(r"url\(|@import", text)


def test_what_a_submission_printed_is_text(text):
    assert text.count("<script>") == 1 and "<img" not in text
    assert "&lt;script&gt;document.title" in text and "{{ 7*7 }}" in text and "\x1b" not in text


def test_a_screen_reader_finds_its_way(text):
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert {"header", "nav", "main", "footer", "h1", "h2", "h3", "h4"} <= set(tags)
    assert tags.count("h1") == tags.count("main") == 1
    drawings = [a for a in page.all("svg") if a.get("role") == "img"]
    assert drawings and all(a.get("aria-labelledby") for a in drawings)
    assert all(a.get("scope") for a in page.all("th"))
    assert "Life 2 trains steps 3 to 6 and repeats steps 3 to 3: finished." in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast(scheme):
    style = (html.HERE / "page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.S)
    colors = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    texts = ("text", "quiet", "link", "pass", "fail", "blocked", "inconclusive")
    for one in texts:
        for ground in ("page", "card"):
            assert contrast(colors[one], colors[ground]) >= 4.5, (one, ground)
    for mark in ("signal", "pass", "fail", "bar"):  # WCAG: drawings need 3, bars are also labelled
        assert contrast(colors[mark], colors["card"]) >= (1.9 if mark == "bar" else 3), mark


def contrast(one: str, other: str) -> float:
    def light(color: str) -> float:
        parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_ranges_are_joined():
    assert page_figures.ranges([3, 6, 7, 8, 1]) == "1, 3, 6 to 8"
    assert page_figures.ranges(range(0, 60, 2), most=2) == "0, 2 and 28 more"


# --- in a browser ---------------------------------------------------------------------------------


def headless(folder) -> list[str]:
    """A browser's command."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: {', '.join(BROWSERS)} (apt-get install chromium)")
    command = [found, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    return [*command, f"--user-data-dir={folder / 'profile'}"]


def browser(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*headless(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_an_error(text, tmp_path, width, scheme):
    """The page's own script runs, and nothing else does."""
    file = tmp_path / "page.html"
    file.write_text(text)
    picture = tmp_path / "page.png"
    blink = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    size = f"--window-size={width},900"
    shown = browser(tmp_path, blink, size, f"--screenshot={picture}", file.as_uri())
    assert picture.stat().st_size > 10_000, shown.stderr[-2_000:]
    assert "CONSOLE" not in shown.stderr, shown.stderr
    dom = browser(tmp_path, blink, size, "--dump-dom", f"{file.as_uri()}#code-state-lost").stdout
    page = Page(dom)
    assert "<title>Grading: 3 of 11 points</title>" in dom  # and not "owned"
    assert all("hidden" not in attrs for attrs in page.all("button"))  # the script ran
    (target,) = re.findall(r"<details[^>]*>(?=<summary><h3><code>state-lost)", dom)
    assert "open" in target  # the link opened the fold


def test_no_page_is_wider_than_a_phone(text, tmp_path):
    """Asked of the page itself: a script sets its title before it is dumped."""
    probe = """<script>document.title = JSON.stringify({
      wide: document.documentElement.scrollWidth, window: innerWidth,
      past: [...document.querySelectorAll("main *")].filter(e => !e.closest(".wide") &&
        !e.closest("svg") && e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.tagName + "." + e.className).slice(0, 5)})</script></body>"""
    without_policy = re.sub("<meta http-equiv[^>]*>", "", text).replace("<details", "<details open")
    frame = tmp_path / "page.html"
    frame.write_text(without_policy.replace("</body>", probe))
    dom = browser(tmp_path, "--window-size=400,900", "--dump-dom", frame.as_uri()).stdout
    title, *_ = re.findall("<title>(.*?)</title>", dom)
    said = json.loads(title.replace("&quot;", '"').replace("&amp;", "&"))
    assert said["wide"] <= said["window"] and not said["past"], said


def test_a_page_of_a_whole_grading_is_small(results):
    assert len(html.page(results * 4, explain.explanations())) < 500_000
