"""Every command on a pseudo-terminal of 50, 80 and 120 columns: figures are whole, and the live
line shows what is done.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.recording import Recording, Screen, record
from tests.hub import running_hub
from vtcli.cli.live import Task, fit
from vtcli.evaluation.run_directory import RunDirectory

WIDTHS = (50, 80, 120)
FIRST_OUTPUT = 3.0  # seconds; one on a machine without other work
NANO = ("-m", "uniformerv2-nano")
# The commands that compute, in the order of a first hour, each at one width.
WORK = (
    (80, "datasets make motion8 data --train 16 --val 16 --test 16 --size 48"),
    (50, "datasets check data"),
    (120, "predict data/test/left/0000.mp4 -m uniformerv2-nano --views 4x3"),
    (80, "predict data/test -m uniformerv2-nano --window 1s --stride 0.2s"),
    (50, "predict data/test -m vivit-nano -o bulk/"),
    (50, "eval --dataset data --split test -m uniformerv2-nano -o run"),
    (50, "finetune --dataset data -m uniformerv2-nano -o tuned --epochs 3"),
    (80, "finetune --dataset data -m uniformerv2-nano -o head --trainable head"),
    (120, "finetune --dataset data -m uniformerv2-nano -o tuned2 --dry-run"),
    (80, "convert tuned/best.safetensors --to official -o tuned.pth"),
    (50, "convert tuned.pth -o again.safetensors"),
    (120, "profile -m uniformerv2-nano"),
    (50, "embed data/test -m uniformerv2-nano -o index.npz"),
    (80, "explain data/test/left/0000.mp4 -m xvit-nano -o why.png"),
    (120, "review run -o review.html"),
    (80, "doctor"),
    (50, "demo"),
)
READ = (
    "models list 'uniformerv2-b*'",
    "models show uniformerv2-nano",
    "models fetch uniformerv2-nano",
    "datasets export data -o labels.jsonl --to manifest",
    "datasets list",
    "datasets show motion8",
    "profile uniformerv2-nano",
    "eval rescore run",
    "eval compare run run",
    "eval calibrate run -o calibrated.safetensors",
    "eval export run -o scores.npz",
    # Those that compute, where it takes little time.
    "datasets check data",
    "predict data/test/left/0000.mp4 -m uniformerv2-nano",
    "predict data/test/left -m uniformerv2-nano --window 1s",
    "search left --index index.npz",
    # Those above, again at this width: what was computed is reported.
    "datasets make motion8 data --train 16 --val 16 --test 16 --size 48",
    "predict data/test -m vivit-nano -o bulk/",
    "eval --dataset data --split test -m uniformerv2-nano -o run",
    "finetune --dataset data -m uniformerv2-nano -o tuned --epochs 3",
    "convert tuned.pth -o again.safetensors",
    "explain data/test/left/0000.mp4 -m xvit-nano -o why.png",
    "review run -o review.html",
    "embed data/test/left -m uniformerv2-nano -o left.npz",
    "profile -m uniformerv2-nano",
    "doctor",
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Recording]]:
    """The folder of a first hour, and its recordings by command."""
    folder = tmp_path_factory.mktemp("hour")
    return folder, {
        words: record(words.split(), width, folder, quick=words == "demo") for width, words in WORK
    }


def check(recording: Recording, width: int) -> None:
    assert recording.code == 0, recording.text
    assert recording.first < FIRST_OUTPUT
    assert "…" not in recording.text
    assert not re.search(r"^ *\.\.\.|  \.\.\. ", recording.text, re.MULTILINE)
    assert recording.text.count("next:") == 1
    for line in recording.live_lines:
        assert len(line) < width
        assert "…" not in line


@pytest.mark.slow
@pytest.mark.parametrize(("width", "words"), WORK, ids=[words for _, words in WORK])
def test_whoever_waits_sees_what_happens(
    work: tuple[Path, dict[str, Recording]], width: int, words: str
) -> None:
    recording = work[1][words]
    check(recording, width)
    assert recording.live_lines
    if recording.seconds > 2:
        assert recording.blank() < 0.1


@pytest.mark.slow
def test_steps_are_counted_while_they_are_done(work: tuple[Path, dict[str, Recording]]) -> None:
    counted = {
        "datasets make": r"\d+/48 files",
        "datasets check": r"\d+/48 files",
        "predict data/test/left": r"\d+/12 views",
        "eval --dataset": r"\d+/16 videos",
        "finetune --dataset data -m uniformerv2-nano -o tuned ": r"epoch \d/3 .* \d/2 · .* left",
        "finetune --dataset data -m uniformerv2-nano -o head": r"features .* \d+/80 clips",
    }
    for start, pattern in counted.items():
        words = next(words for words in work[1] if words.startswith(start))
        assert re.search(pattern, "\n".join(work[1][words].live_lines)), words


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_tables_are_whole_at_any_width(work: tuple[Path, dict[str, Recording]], width: int) -> None:
    folder, _ = work
    text = {}
    for words in READ:
        quick = words.startswith("profile -m")  # it is measured in full above
        recording = record(words.replace("'", "").split(), width, folder, quick=quick)
        check(recording, width)
        text[words] = recording.text
    accuracy = RunDirectory(folder / "run").folder / "summary.json"
    assert accuracy.is_file()
    assert re.search(r"top-1 +\d+\.\d \(\d+\.\d–\d+\.\d\)", text["eval rescore run"])
    calibrated = text["eval calibrate run -o calibrated.safetensors"]
    assert len(re.findall(r"\d\.\d\d\d", calibrated)) == 5


@pytest.mark.slow
def test_a_finished_run_says_so_and_changes_nothing(
    work: tuple[Path, dict[str, Recording]],
) -> None:
    folder, _ = work
    for start, run in (
        ("finetune --dataset data -m uniformerv2-nano -o tuned ", "tuned"),
        ("eval --dataset", "run"),
    ):
        words = next(words for words in work[1] if words.startswith(start))
        kept = sorted((folder / run).rglob("*.safetensors")) + sorted(
            (folder / run).rglob("*.jsonl")
        )
        before = [path.read_bytes() for path in kept]
        again = record(words.split(), 80, folder)
        check(again, 80)
        assert f"{run} is complete" in again.text
        assert [path.read_bytes() for path in kept] == before


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_uploads_are_followed_at_any_width(width: int, tmp_path: Path) -> None:
    with running_hub() as hub:
        content = tiny.official_file(tmp_path / "tiny.pyth").read_bytes()
        hub.add_repo("upstream/tiny", {"weights.pyth": content})
        where = 'repo = "upstream/tiny"\nfile = "weights.pyth"'
        source = tiny.SOURCE.format(kind="hub", where=where, sha256="")
        (tmp_path / "own.toml").write_text(tiny.REGISTRY.format(sources=source))
        variables = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "hf_writer",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "*",
            "VT_CACHE": str(tmp_path / "vt"),
            "VT_REGISTRY": str(tmp_path / "own.toml"),
        }
        for words in ("models push tiny.k400-8f team/tiny", "models mirror team tiny*"):
            recording = record(words.split(), width, tmp_path, variables)
            check(recording, width)
            assert recording.live_lines
            assert "it/s" not in recording.text  # of the Hub's client


def test_counts_and_times_are_whole_in_the_narrowest_line() -> None:
    task = Task("a" * 100, 1234, 5678, "videos", ("loss 0.1", "top-1 20.0%"), seconds_left=3723)
    for width in (38, 50, 80, 120):
        line = fit(task, width, color=False)
        assert len(line) <= width
        assert "1234/5678 videos · 1:02:03 left" in line
    assert "loss 0.1 · top-1 20.0%" in fit(task, 120, color=False)
    assert "━...." in fit(task, 50, color=False)  # the bar


def test_the_recorder_obeys_the_codes_of_a_terminal() -> None:
    screen = Screen()
    screen.feed("one\ntwo\r\x1b[2Kthree\x1b[32m!\x1b[0m\rT")
    assert screen.lines == ["one", "Three!"]
