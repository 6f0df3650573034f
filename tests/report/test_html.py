"""The page shows the whole report, is self-contained, escapes all text and works in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.browser import CHROMIUM, in_a_browser
from tests.report import reports
from vtcli.errors import DataError
from vtcli.evaluation.metrics import head_metrics
from vtcli.evaluation.results import Estimate, EvaluationReport, ReportedMetrics
from vtcli.report.html import FAILURES_SHOWN, write_html

DARK, LIGHT = 0, 1
VOID = {"meta", "link", "input", "img", "br"}
HOSTILE = (
    "<script>alert(1)</script>",
    "a & \"b\" 'c'",
    "拍手する",
    "שלום",
    "</script><b>",
    "-->",
    "{{ 1 }}{% x %}",
)


class Page(HTMLParser):
    """The elements and the text of a page; fails on tags that are not closed properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] for t, attrs in self.elements if t == tag and name in attrs]


def written(report: EvaluationReport, folder: Path) -> str:
    write_html(report, folder / "report.html")
    return (folder / "report.html").read_text("utf-8")


# --- what is written ----------------------------------------------------------------------------


def test_metrics_are_shown_with_intervals_next_to_published_ones(tmp_path: Path) -> None:
    head = replace(
        reports.head(reports.MOTIONS, failed=20),
        top1_read=Estimate(0.8137, 0.7981, 0.8289),
        top1_all=Estimate(0.651, 0.6, 0.7),
    )
    report = reports.report(head, reported=ReportedMetrics(84.4, None, "Table 3 of the paper"))
    page = Page(written(report, tmp_path))
    assert "top-1 81.4 79.8 to 82.9 65.1 60.0 to 70.0 84.4 -3.0" in page.text
    assert "published: Table 3 of the paper" in page.text
    assert "100 expected, 80 read, 20 failed in 1 min 23 s, 0.96 videos/s" in page.text


def test_failures_are_counted_and_listed_by_reason(tmp_path: Path) -> None:
    regressed = [*reports.failures(2, "timeout"), *reports.failures(FAILURES_SHOWN + 5)]
    head = reports.head(reports.MOTIONS, failed=len(regressed))
    page = Page(written(reports.report(head, failures=tuple(regressed)), tmp_path))
    text = page.text
    assert text.index(f"corrupt: {FAILURES_SHOWN + 5} videos") < text.index("timeout: 2 videos")
    assert "/data/val/timeout/1.mp4: breaks off after 1 frames" in text
    assert "and 5 more" in text


def test_warnings_and_protocol_differences_are_above_the_metrics(tmp_path: Path) -> None:
    report = reports.report(differs="1 x 1 views instead of 4 x 3", warnings=("odd & <i>bad</i>",))
    text = Page(written(report, tmp_path)).text
    for words in ("Not the published protocol: 1 x 1 views", "Warning: odd & <i>bad</i>"):
        assert 0 <= text.index(words) < text.index("Accuracy Videos")


def test_names_and_paths_are_escaped(tmp_path: Path) -> None:
    names = (*HOSTILE, *(f"class {i}" for i in range(30)))
    mistake = reports.misclassification(path='/d/<img src=x onerror="a()">.mp4', target=HOSTILE[0])
    report = reports.report(reports.head(names), misclassifications=(mistake,), title="<h1>&amp;")
    text = written(report, tmp_path)
    page = Page(text)
    for words in (*HOSTILE, mistake.path, "<h1>&amp;"):
        assert " ".join(words.split()) in page.text
    assert text.count("<script") == 2
    assert not page.attributes("img", "onerror")
    data = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["classes"] == list(names)


def test_control_characters_are_replaced(tmp_path: Path) -> None:
    names = ("nul\0", "\x1b[31mred", "tab\tnew\nline\x7f", *(f"class {i}" for i in range(30)))
    text = written(reports.report(reports.head(names)), tmp_path)
    assert not re.search(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]", text)
    page = Page(text)
    for name in ("nul\ufffd", "\ufffd[31mred", "tab new line\ufffd"):
        assert name in page.text
    data = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["classes"][:2] == list(names[:2])


def test_a_path_that_is_not_unicode_is_written_with_a_question_mark(tmp_path: Path) -> None:
    report = reports.report(misclassifications=(reports.misclassification(path="/d/\udce4.mp4"),))
    assert "/d/?.mp4" in written(report, tmp_path)


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    text = written(reports.report(misclassifications=(reports.misclassification(),)), tmp_path)
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    links = page.attributes("a", "href")
    assert links
    assert all(link.startswith("#") for link in links)
    anchors = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    assert {link[1:] for link in links} <= anchors
    assert all(source.startswith("data:") for source in page.attributes("img", "src"))
    assert {ids for ids in page.attributes("section", "aria-labelledby")} <= anchors
    assert len(page.attributes("section", "aria-labelledby")) == len(links) - 1  # and the skip link
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_the_policy_allows_only_the_pages_own_script(tmp_path: Path) -> None:
    text = written(reports.report(), tmp_path)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(p for p in Page(text).attributes("meta", "content") if "default-src" in p)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_frames_of_a_misclassification_are_in_the_page(tmp_path: Path) -> None:
    frames = (reports.image(0), reports.image(1, codec="png"))
    mistake = reports.misclassification(frames=frames, times=("0.0 s", "0.5 s"))
    report = reports.report(misclassifications=(mistake,))
    page = Page(written(report, tmp_path))
    kinds, contents = zip(
        *(s.split(";base64,") for s in page.attributes("img", "src")), strict=True
    )
    assert kinds == ("data:image/jpeg", "data:image/png")
    assert tuple(base64.b64decode(content) for content in contents) == frames
    assert "0.0 s 0.5 s" in page.text
    assert "prediction right 98.0% target left 1.0%" in page.text


def test_the_confusion_matrix_of_few_classes_is_a_table(tmp_path: Path) -> None:
    scores = np.eye(3)[[0, 0, 2, 1, 2]]
    head = head_metrics("action", ("a", "b", "c"), scores, [0, 1, 1, 1, 2], 5)
    text = Page(written(reports.report(head), tmp_path)).text
    assert "a b c a 1 · · b 1 1 1 c · · 1" in text
    assert "b → a 1 of 3" in text


def test_verbs_nouns_and_actions_have_metrics_of_their_own(tmp_path: Path) -> None:
    text = Page(written(reports.epic(), tmp_path)).text
    for words in ("action top-1", "verb top-5", "noun mean class", "Classes of noun"):
        assert words in text


def test_a_run_in_which_every_video_failed_says_so(tmp_path: Path) -> None:
    head = reports.nothing(reports.MOTIONS, 12)
    report = reports.report(head, failures=tuple(reports.failures(12)))
    page = Page(written(report, tmp_path))
    assert "No video was read" in page.text
    assert "12 expected, 0 read, 12 failed" in page.text
    assert "Confusion" not in page.text


def test_a_page_with_many_classes_and_frames_is_below_six_megabytes(tmp_path: Path) -> None:
    names = tuple(f"a class with a name of usual length, number {i}" for i in range(710))
    # A photograph of 224 x 224 pixels takes about 9 kB.
    frame = reports.image(0) + b"\0" * 9000
    mistakes = [reports.misclassification(frames=(frame,) * 8, times=()) for _ in range(40)]
    report = reports.report(reports.head(names, 20, 0.7), misclassifications=tuple(mistakes))
    assert len(written(report, tmp_path).encode()) < 6e6


def test_templates_are_loaded_only_when_a_page_is_written() -> None:
    code = "import sys, vtcli.cli, vtcli.report.html; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_html(reports.report(), tmp_path / "file" / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- in a browser -------------------------------------------------------------------------------


def browse(page: Path, fragment: str = "", scheme: int = LIGHT) -> Page:
    """The page after its scripts ran; fails on any message on the browser's console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1200,2000"]
    command += [f"--blink-settings=preferredColorScheme={scheme}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", page.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    return Page(done.stdout.replace("<!DOCTYPE html>", ""))


def with_script(page: Path, script: str) -> Path:
    """A copy that also runs `script` and writes its result as JSON into `data-seen`.

    The copy has no Content-Security-Policy: that of the page would block the script.
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    script = (
        f"<script>document.body.dataset.seen = JSON.stringify((() => {{{script}}})());</script>"
    )
    copy = page.with_name("copy.html")
    copy.write_text(text.replace("</body>", script + "</body>"), "utf-8")
    return copy


def seen(page: Page) -> dict:
    return json.loads(page.attributes("body", "data-seen")[0])


@in_a_browser
def test_sort_and_filter_come_from_the_address(tmp_path: Path) -> None:
    names = (*HOSTILE, *(f"{'dog' if i % 10 else 'cat'} {i:02d}" for i in range(30)))
    write_html(reports.report(reports.head(names)), tmp_path / "report.html")
    page = browse(tmp_path / "report.html", "#sort=name&order=descending&filter=cat")
    rows = [attrs for tag, attrs in page.elements if tag == "tr" and "data-n" in attrs]
    assert len(rows) == 37
    sorts = {a["data-sort"]: a["aria-sort"] for t, a in page.elements if "data-sort" in a}
    assert sorts == {"name": "descending", "accuracy": "none", "n": "none"}
    heads = re.findall(r'<th scope="row"><bdi>(\w+ \d\d)</bdi>', page.source)
    assert heads == sorted(names[len(HOSTILE) :], reverse=True)
    matches = sum("hidden" not in attrs for attrs in rows)
    assert f"{matches} of 37 classes" in page.text
    assert 3 <= matches < 37


ACT = """
const part = document.querySelector(".class-part");
const rows = () => [...part.querySelectorAll("tbody tr")];
const names = () => rows().filter((r) => !r.hidden).map((r) => r.cells[0].textContent);
const seen = { first: names() };
const button = (key) => part.querySelector(`th[data-sort=${key}] button`);
button("accuracy").click();
seen.best = rows().map((r) => Number(r.dataset.accuracy));
button("name").click();
seen.byName = names();
const field = part.querySelector("input");
field.value = "CLASS 1";
field.dispatchEvent(new Event("input"));
seen.found = names();
seen.hash = location.hash;
const words = (name) => document.querySelector(`[data-is=${name}]`).textContent;
const big = document.querySelector(".big");
const step = big.clientWidth / 30;
const box = big.getBoundingClientRect();
const at = { clientX: box.left + big.clientLeft + 5.5 * step,
             clientY: box.top + big.clientTop + 2.5 * step };
seen.start = [words("target"), words("predicted"), words("count")];
big.dispatchEvent(new PointerEvent("pointermove", { ...at, bubbles: true }));
seen.pointed = [words("target"), words("predicted"), words("count")];
big.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
big.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", shiftKey: true }));
seen.stepped = [words("target"), words("predicted"), words("count")];
const side = big.width;
const pixels = big.getContext("2d").getImageData(0, 0, side, side).data;
const cell = (row, column) => {
  const at = Math.floor((row + 0.5) * side / 30) * side + Math.floor((column + 0.5) * side / 30);
  return [...pixels.slice(4 * at, 4 * at + 4)];
};
seen.right = cell(7, 7);
seen.wrong = cell(2, 6);
seen.empty = cell(20, 3);
seen.page = getComputedStyle(document.body).backgroundColor;
return seen;
"""


@in_a_browser
@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_buttons_filter_and_matrix_react(tmp_path: Path, scheme: int) -> None:
    target = np.repeat(np.arange(30), 4)
    predicted = target.copy()
    predicted[[8, 9, 10]] = [6, 6, 5]  # class 2: twice confused with class 6, once with 5
    names = tuple(f"class {i}" for i in range(30))
    head = head_metrics("action", names, np.eye(30)[predicted], target.tolist(), 120)
    write_html(reports.report(head), tmp_path / "report.html")
    found = seen(browse(with_script(tmp_path / "report.html", ACT), scheme=scheme))
    assert found["first"][0] == "class 2"
    assert found["best"] == [1.0] * 29 + [0.25]
    assert found["byName"] == sorted(names)
    assert found["found"] == [name for name in sorted(names) if "class 1" in name]
    assert found["hash"] == "#sort=name&order=ascending&filter=CLASS+1"
    assert found["start"] == ["class 2", "class 6", "2 of 4 (50.0%)"]
    assert found["pointed"] == ["class 2", "class 5", "1 of 4 (25.0%)"]
    assert found["stepped"] == ["class 3", "class 15", "0 of 4 (0.0%)"]
    red, _, blue, strength = found["right"]
    assert blue > red
    assert strength == 255
    red, _, blue, strength = found["wrong"]
    assert red > blue
    assert 0 < strength < 255
    assert found["empty"][3] == 0
    brightness = sum(map(int, re.findall(r"\d+", found["page"])))
    assert brightness > 600 if scheme == LIGHT else brightness < 150


FIND = """
const words = () => ["target", "predicted"].map(
  (name) => document.querySelector(`[data-is=${name}]`).textContent);
const seen = { start: words() };
const field = document.querySelector(".goto");
field.value = "class 50";
field.dispatchEvent(new Event("input"));
seen.found = words();
document.querySelectorAll("[data-cell]")[0].click();
seen.clicked = words();
seen.options = document.querySelectorAll("datalist option").length;
seen.wide = document.documentElement.scrollWidth > innerWidth;
return seen;
"""


@in_a_browser
def test_a_class_of_400_is_found_in_the_matrix(tmp_path: Path) -> None:
    target = np.repeat(np.arange(400), 2)
    predicted = target.copy()
    predicted[[18, 19, 100]] = [7, 7, 399]  # class 9 as class 7; class 50 as class 399, once
    names = tuple(f"class {i}" for i in range(400))
    head = head_metrics("action", names, np.eye(400)[predicted], target.tolist(), 800)
    write_html(reports.report(head), tmp_path / "report.html")
    found = seen(browse(with_script(tmp_path / "report.html", FIND)))
    assert found == {
        "start": ["class 9", "class 7"],
        "found": ["class 50", "class 399"],
        "clicked": ["class 9", "class 7"],
        "options": 400,
        "wide": False,
    }


@in_a_browser
def test_every_kind_of_run_opens_without_console_messages(tmp_path: Path) -> None:
    nothing = reports.report(reports.nothing(reports.MOTIONS, 3), failures=())
    for name, report in (("epic", reports.epic()), ("nothing", nothing)):
        write_html(report, tmp_path / f"{name}.html")
        assert browse(tmp_path / f"{name}.html").text


@in_a_browser
def test_an_injected_script_does_not_run(tmp_path: Path) -> None:
    write_html(reports.report(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.html").write_text(
        text.replace("</body>", "<script>document.title = 'changed'</script></body>"), "utf-8"
    )
    with pytest.raises(AssertionError, match="CONSOLE"):
        browse(tmp_path / "report.html")
