"""An evaluation counts every failure, resumes after a kill with equal scores, and no score depends
on its neighbors in the batch.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import av
import av.error
import numpy as np
import pytest
import torch

from tests import tiny
from tests.data import layouts
from tests.evaluation.harness import (
    CLASSES,
    ROOT,
    class_folders,
    environment,
    model_file,
    scores_of,
    vt,
    vt_here,
)
from tests.forked import Forked, run_group
from vtcli.data.clip_loader import Loader, Request
from vtcli.data.open import open_dataset
from vtcli.data.samples import Sample
from vtcli.errors import DataError, OutOfMemoryError, UsageError, VideoDecodeError
from vtcli.evaluation import EvalSettings, EvaluationReport, Evaluator, plan_evaluation
from vtcli.evaluation.aggregate import load_run_scores
from vtcli.evaluation.run_directory import RunDirectory, sample_key
from vtcli.inference import scoring
from vtcli.inference.batching import make_units, slots_per_batch
from vtcli.inference.predict import predict
from vtcli.labels import load_labels
from vtcli.runtime.distributed import Group
from vtcli.video import frame_source
from vtcli.weights.load import load_model

T = TypeVar("T")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "videos")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, model: Path, videos: Path) -> Path:
    """A run without interruption, one video per batch."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    done = vt_here("eval", "--dataset", videos, "-m", model, "-b", "2", "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder


def evaluate(dataset: Path | str, model: Path, run: Path, **options: object) -> EvaluationReport:
    root = options.pop("root", None)
    found = open_dataset(dataset, root)  # type: ignore[arg-type]
    plan = plan_evaluation(found, model, EvalSettings(**{"device": "cpu", **options}))  # type: ignore[arg-type]
    evaluator = Evaluator(plan, run)
    evaluator.run()
    return evaluator.conclude()


def test_scores_are_those_of_vt_predict(model: Path, videos: Path, uninterrupted: Path) -> None:
    stored = load_run_scores(RunDirectory(uninterrupted))
    for row, sample in list(enumerate(stored.read))[::7]:
        prediction = predict(sample.path, model=model, views="paper", topk=8, precision="fp32")
        expected = {a.index: a.upstream_score for a in prediction.predictions}
        for index, raw in expected.items():
            assert stored.scores["action"][row, index] == pytest.approx(raw, abs=1e-5)


def test_a_run_records_the_precision_that_auto_stands_for(
    model: Path, videos: Path, tmp_path: Path
) -> None:
    report = evaluate(videos, model, tmp_path / "run", precision="auto")
    run = RunDirectory(tmp_path / "run")
    recorded = run.info["protocol"]["precision"]
    assert recorded == "fp32"  # the network is small
    assert report.settings["precision"] == recorded
    # A run begun at another precision goes on at that, and an older one that says "auto" goes on.
    for stored in ("bf16", "auto"):
        info = run.info
        info["protocol"]["precision"] = stored
        (tmp_path / "run" / "run.json").write_text(json.dumps(info))
        again = evaluate(videos, model, tmp_path / "run", precision="auto")
        assert again.settings["precision"] == stored
        with pytest.raises(DataError, match=f"precision.*'{stored}', not 'fp32'"):
            evaluate(videos, model, tmp_path / "run", precision="fp32")


def test_accuracy_is_what_the_stored_scores_say(uninterrupted: Path, videos: Path) -> None:
    stored = load_run_scores(RunDirectory(uninterrupted))
    names = [sample.id.split("/")[0].replace("_", " ") for sample in stored.read]
    predicted = [CLASSES[i] for i in stored.scores["action"].argmax(1)]
    summary = json.loads((uninterrupted / "summary.json").read_text())
    correct = sum(a == b for a, b in zip(names, predicted, strict=True))
    assert summary["heads"][0]["top1_read"]["value"] == pytest.approx(correct / len(names))
    assert (summary["expected"], summary["read"], summary["failed"]) == (24, 24, 0)


def kill_at(count: int, run: Path, words: list[str]) -> None:
    """Start the command and kill it as soon as this many views have been written."""
    process = Forked(words, environment(), ROOT)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if len(scores_of(run)) >= count:
            break
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", ["1", "5"])
def test_a_run_killed_at_random_ends_with_the_same_scores(
    batch_size: str, model: Path, videos: Path, tmp_path: Path
) -> None:
    run, whole = tmp_path / "killed", tmp_path / "whole"
    words = ["eval", "--dataset", str(videos), "-m", str(model), "-b", batch_size, "-o"]
    chance = random.Random(int(batch_size))
    for count in sorted(chance.sample(range(1, 40), 2)):
        kill_at(count, run, [*words, str(run)])
    assert vt_here(*words, run).returncode == 0
    assert vt_here(*words, whole).returncode == 0
    assert scores_of(run) == scores_of(whole)
    assert len(scores_of(run)) == 48
    for name in ("predictions.csv", "failures.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_no_view_is_scored_twice(model: Path, videos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["eval", "--dataset", str(videos), "-m", str(model), "-b", "1", "-o", str(run)]
    kill_at(20, run, words)
    assert vt_here(*words).returncode == 0
    lines = [json.loads(line) for f in (run / "scores").iterdir() for line in whole_lines(f)]
    assert set(Counter((line["id"], line["view"]) for line in lines).values()) == {1}


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_resume(
    sent: signal.Signals, code: int, model: Path, videos: Path, tmp_path: Path
) -> None:
    words = ["eval", "--dataset", str(videos), "-m", str(model), "-b", "1", "-o", str(tmp_path)]
    process = Forked(words, environment(), ROOT)
    while not scores_of(tmp_path):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "run the same command again" in err
    assert "Traceback" not in err


def whole_lines(file: Path) -> Iterator[str]:
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield line


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_work_and_give_the_same_scores(
    processes: int, model: Path, videos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    words = ("eval", "--dataset", videos, "-m", model, "-b", "2", "-o", tmp_path / "run")
    for done in run_group(processes, words, environment(), ROOT):
        assert done.returncode == 0, done.stderr
    assert scores_of(tmp_path / "run") == scores_of(uninterrupted)
    assert len(list((tmp_path / "run" / "scores").iterdir())) == processes
    predictions = (tmp_path / "run" / "predictions.csv").read_bytes()
    assert predictions == (uninterrupted / "predictions.csv").read_bytes()


def torchrun_command(processes: int, *words: str | Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc-per-node={processes}", "-m", "vtcli", *map(str, words)]


@pytest.mark.slow
def test_a_process_that_dies_loses_nothing(
    model: Path, videos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Rank 0 is killed; the run is resumed by a single process."""
    run = tmp_path / "run"
    words = ("eval", "--dataset", videos, "-m", model, "-b", "2", "-o", run)
    process = subprocess.Popen(
        torchrun_command(2, *words),
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (started := list(run.glob("scores/*-rank0.jsonl"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(int(started[0].name.split("-")[2]), signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    before = scores_of(run)
    assert vt_here(*words).returncode == 0
    after = scores_of(run)
    assert before.items() <= after.items()
    assert after == scores_of(uninterrupted)


def test_corrupt_videos_are_counted_and_never_replaced(
    model: Path, videos: Path, tmp_path: Path
) -> None:
    """Ten percent of a dataset: truncated, empty, text."""
    data = tmp_path / "videos"
    shutil.copytree(videos, data)
    files = sorted(p for p in data.rglob("*.mp4"))
    extra = data / CLASSES[0].replace(" ", "_") / "more.mp4"
    shutil.copy(files[0], extra)
    files[3].write_bytes(files[3].read_bytes()[:700])
    files[11].write_bytes(b"")
    files[17].write_text("not a video at all")
    run = tmp_path / "run"
    done = vt_here("eval", "--dataset", data, "-m", model, "-o", run)
    assert done.returncode == 3, done.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["expected"], summary["read"], summary["failed"]) == (25, 22, 3)
    head = summary["heads"][0]
    correct = head["top1_read"]["value"] * 22
    assert head["top1_all"]["value"] == pytest.approx(correct / 25)
    failed = {row["id"]: row["reason"] for row in summary["failures"]}
    assert len(failed) == 3
    assert all(files[n].name in {Path(i).name for i in failed} for n in (3, 11, 17))
    assert "25 expected, 22 read, 3 failed" in done.stdout
    again = vt_here("eval", "--dataset", data, "-m", model, "-o", run)
    assert again.returncode == 3
    assert len(list((run / "scores").iterdir())) == 1  # nothing was done twice


def test_a_repaired_file_is_read_when_the_run_is_resumed(
    model: Path, videos: Path, tmp_path: Path
) -> None:
    data = tmp_path / "videos"
    shutil.copytree(videos, data)
    broken = sorted(data.rglob("*.mp4"))[5]
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    assert evaluate(data, model, tmp_path / "run").failed == 1
    broken.write_bytes(whole)
    report = evaluate(data, model, tmp_path / "run")
    assert (report.read, report.failed) == (24, 0)


@contextmanager
def unreadable(video: Path, error: Exception) -> Iterator[None]:
    """Let PyAV fail to open one file."""
    open_container = av.open

    def fail(name: str, **options: object) -> object:
        if name == str(video):
            raise error
        return open_container(name, **options)  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(av, "open", fail)
        yield


def test_an_io_error_is_tried_again_when_the_run_is_resumed(
    model: Path, videos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    video = sorted(videos.rglob("*.mp4"))[5]
    with unreadable(video, av.error.OSError(errno.EIO, "Input/output error", str(video))):
        failed = evaluate(videos, model, tmp_path / "run", batch_size=2, workers=0)
    assert [failure.reason for failure in failed.failures] == ["io_error"]
    report = evaluate(videos, model, tmp_path / "run", batch_size=2)
    assert (report.read, report.failed) == (24, 0)
    assert scores_of(tmp_path / "run") == scores_of(uninterrupted)


def test_retry_failures_tries_every_failure_again(
    model: Path, videos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    video = sorted(videos.rglob("*.mp4"))[5]
    with unreadable(video, av.error.InvalidDataError(0, "Invalid data", str(video))):
        failed = evaluate(videos, model, tmp_path / "run", batch_size=2, workers=0)
    assert [failure.reason for failure in failed.failures] == ["corrupt"]
    assert evaluate(videos, model, tmp_path / "run", batch_size=2).failed == 1
    report = evaluate(videos, model, tmp_path / "run", batch_size=2, retry_failures=True)
    assert (report.read, report.failed) == (24, 0)
    assert scores_of(tmp_path / "run") == scores_of(uninterrupted)


def test_an_image_repaired_in_place_is_read_when_the_run_is_resumed(tmp_path: Path) -> None:
    """Its folder keeps its modification time."""
    layouts.jester(tmp_path / "jester")
    model = model_file(tmp_path / "m.safetensors", {"action": load_labels("jester")}, "jester")
    image = sorted((tmp_path / "jester").rglob("*.jpg"))[0]
    whole = image.read_bytes()
    image.write_bytes(b"not an image")
    assert evaluate("jester", model, tmp_path / "run", root=tmp_path / "jester").failed == 1
    image.write_bytes(whole)
    report = evaluate("jester", model, tmp_path / "run", root=tmp_path / "jester")
    assert (report.read, report.failed) == (3, 0)


def test_a_run_directory_of_an_older_version_is_refused(
    model: Path, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "dataset": "videos"}))
    with pytest.raises(DataError, match=r"older version .* another folder with vt eval -o"):
        evaluate(videos, model, tmp_path)
    with pytest.raises(DataError, match="older version"):
        load_run_scores(RunDirectory(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({"format": 99, "dataset": "videos"}))
    with pytest.raises(DataError, match="newer version"):
        evaluate(videos, model, tmp_path)


def test_the_key_of_a_sample_depends_on_its_permissions(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = open_dataset(videos).samples[0]
    readable = sample_key(sample)
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: False)
        assert sample_key(sample) != readable
    assert sample_key(sample) == readable


def test_file_names_of_any_bytes_are_evaluated_and_written(tmp_path: Path) -> None:
    names = ["line\u2028separator", "next\x85line", "new\nline", "latin\udce9", "<b>&#\"';,"]
    for label in "ab":
        (tmp_path / "videos" / label).mkdir(parents=True)
        for number, name in enumerate(names):
            tiny.video(tmp_path / "plain.mp4", 12, (48, 40), number)
            (tmp_path / "plain.mp4").rename(tmp_path / "videos" / label / f"{name}.mp4")
        (tmp_path / "videos" / label / f"broken {names[3]}.mp4").write_bytes(b"no video")
    model = model_file(tmp_path / "m.safetensors", {"action": ("a", "b")})
    run = tmp_path / "run"
    report = evaluate(tmp_path / "videos", model, run)
    assert (report.read, report.failed) == (10, 2)
    assert {sample.id for sample in load_run_scores(RunDirectory(run)).read} == {
        f"{label}/{name}.mp4" for label in "ab" for name in names
    }
    summary = json.loads((run / "summary.json").read_bytes())
    assert {Path(f["path"]).name for f in summary["failures"]} == {f"broken {names[3]}.mp4"}
    with (run / "predictions.csv").open(
        encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        assert {row["id"] for row in csv.DictReader(file)} == {
            f"{label}/{name}.mp4" for label in "ab" for name in names
        }


def test_videos_behind_links_to_folders_are_evaluated(
    model: Path, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos" / "abseiling").mkdir(parents=True)
    (tmp_path / "videos" / "abseiling" / "more").symlink_to(videos / "abseiling")
    (tmp_path / "videos" / "abseiling" / "back").symlink_to(tmp_path / "videos")
    assert evaluate(tmp_path / "videos", model, tmp_path / "run").read == 3


def test_a_class_folder_that_cannot_be_opened_stops_before_any_work(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("archery"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"archery cannot be opened \(Permission denied\)"):
        open_dataset(videos)


def test_a_folder_of_frames_that_cannot_be_opened_is_a_failure_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.jester(tmp_path / "jester")
    model = model_file(tmp_path / "m.safetensors", {"action": load_labels("jester")}, "jester")
    listdir = os.listdir

    def refuse(folder: Path) -> list[str]:
        if Path(folder).name == "35":
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    report = evaluate("jester", model, tmp_path / "run", root=tmp_path / "jester", workers=0)
    assert (report.read, report.failed) == (2, 1)
    assert report.failures[0].reason == "not_found"


def test_a_segment_in_seconds_of_a_video_without_times_or_a_frame_rate_is_an_error(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = next(videos.rglob("*.mp4"))
    info = frame_source.probe(clip)
    assert info.index is not None
    rateless = replace(info, fps=0.0, index=replace(info.index, times=np.empty(0)))
    monkeypatch.setattr(frame_source, "probe", lambda path: rateless)
    assert frame_source.open_frame_source(clip).frames == rateless.frames
    with pytest.raises(VideoDecodeError, match="does not state its frame rate"):
        frame_source.open_frame_source(clip, seconds=(0.0, 0.5))


def test_the_next_group_is_decoded_while_the_model_scores_a_large_one(videos: Path) -> None:
    samples = open_dataset(videos).samples
    begun = threading.Event()

    class Reader:
        def read(self, sample: Sample, *_: object) -> Iterator[torch.Tensor]:
            if sample is samples[8]:
                begun.set()
            return iter(())

    groups = ([Request(sample, (0,)) for sample in samples[i : i + 8]] for i in (0, 8))
    loader = iter(Loader(Reader(), groups, workers=2))  # type: ignore[arg-type]
    next(loader)
    assert begun.wait(5)
    loader.close()  # type: ignore[attr-defined]


def test_nothing_read_is_exit_4(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos" / CLASSES[0]
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"")
    done = vt_here("eval", "--dataset", folder.parent, "-m", model, "-o", tmp_path / "run")
    assert done.returncode == 4
    assert "1 expected, 0 read, 1 failed" in done.stdout


SETS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "ssv2": (layouts.ssv2, "ssv2"),
    "k400": (layouts.kinetics, "k400"),
    "ucf101": (layouts.ucf101, "ucf101"),
    "hmdb51": (layouts.hmdb51, "hmdb51"),
    "mit": (layouts.moments, "mit"),
    "jester": (layouts.jester, "jester"),
    "ssv1": (layouts.ssv1, "ssv1"),
    "activitynet": (layouts.activitynet, "activitynet"),
}


@pytest.mark.parametrize("name", SETS)
def test_an_official_download_is_evaluated_as_it_is(name: str, tmp_path: Path) -> None:
    write, stem = SETS[name]
    root = write(tmp_path / name)
    model = model_file(tmp_path / "m.safetensors", {"action": load_labels(stem)}, name, (1, 1))
    report = evaluate(name, model, tmp_path / "run", root=root)
    assert report.failed == 0
    assert report.read == report.expected == len(open_dataset(name, root).samples) > 0
    assert report.dataset == name


def test_two_heads_are_scored_separately_and_as_pairs(tmp_path: Path) -> None:
    root = layouts.epic100(tmp_path / "epic")
    (video,) = root.rglob("P01_11.MP4")
    video.unlink()
    tiny.video(video.with_suffix(".mp4"), 60).rename(video)
    heads = {head: load_labels(f"epic100_{head}") for head in ("noun", "verb")}
    model = model_file(tmp_path / "m.safetensors", heads, "epic100", (1, 1))
    report = evaluate("epic100", model, tmp_path / "run", root=root)
    assert [head.name for head in report.heads] == ["noun", "verb"]
    assert report.action is not None
    assert report.action.n_expected == 2
    # The second segment begins at one minute, in a clip of two seconds.
    assert [f.reason for f in report.failures] == ["missing_frames"]


def test_units_hold_every_view_once_and_no_sample_is_in_two() -> None:
    for samples, views, batch in ((7, 12, 8), (7, 12, 1), (7, 1, 4), (7, 3, 8), (1, 30, 64)):
        units = make_units(samples, views, batch)
        slots = [slot for unit in units for b in unit.batches for slot in b]
        assert sorted(slots) == [(s, v) for s in range(samples) for v in range(views)]
        assert [s for unit in units for s in unit.samples] == list(range(samples))
        most = max(len(b) for unit in units for b in unit.batches)
        assert most <= slots_per_batch(views, batch) <= max(batch, 1)


@pytest.mark.parametrize("arch", ["uniformerv2", "xvit"])
def test_a_score_does_not_depend_on_its_neighbors(arch: str, tmp_path: Path) -> None:
    heads = {"action": CLASSES} if arch == "uniformerv2" else {"noun": CLASSES, "verb": CLASSES}
    net = load_model(model_file(tmp_path / "m.safetensors", heads))
    frames = net.config.num_frames
    clips = torch.randn(6, 3, frames, 32, 32)
    others = torch.randn(6, 3, frames, 32, 32)
    others[3] = clips[3]
    alone = torch.zeros(6, 3, frames, 32, 32)
    alone[3] = clips[3]
    with torch.inference_mode():
        outputs = [net(batch) for batch in (clips, others, alone)]
    for output in outputs[1:]:
        for head, logits in by_head(output).items():
            assert torch.equal(logits[3], by_head(outputs[0])[head][3])


def by_head(logits: torch.Tensor | dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return logits if isinstance(logits, dict) else {"action": logits}


def test_shuffled_class_names_are_detected(tmp_path: Path) -> None:
    """A model whose class numbers are correct but whose class names are in another order."""
    data = class_folders(tmp_path / "videos", per_class=4)
    shuffled = [*CLASSES[3:], *CLASSES[:3]]
    model = model_file(tmp_path / "m.safetensors", {"action": shuffled})
    plan = plan_evaluation(open_dataset(data), model, EvalSettings(device="cpu"))
    evaluator = Evaluator(plan, tmp_path / "run")
    evaluator.run()
    _overwrite_scores(tmp_path / "run", {name: n for n, name in enumerate(sorted(CLASSES))})
    report = evaluator.conclude()
    assert any("permuted class order" in warning for warning in report.warnings)


def _overwrite_scores(run: Path, row_of: dict[str, int]) -> None:
    """Overwrite the scores of a run: the class of each sample's folder gets the highest one."""
    import base64

    file = next((run / "scores").iterdir())
    lines = []
    for line in file.read_text().splitlines():
        record = json.loads(line)
        scores = np.zeros(len(row_of), "<f4")
        scores[row_of[record["id"].split("/")[0].replace("_", " ")]] = 5.0
        record["logits"] = {"action": base64.b64encode(scores.tobytes()).decode()}
        lines.append(json.dumps(record))
    file.write_text("".join(f"{line}\n" for line in lines))


def test_classes_the_model_does_not_have_stop_before_any_work(tmp_path: Path, model: Path) -> None:
    data = class_folders(tmp_path / "videos", 1, ["abseiling", "juggling chainsaws"])
    with pytest.raises(DataError, match=r"1 of the 2 classes .* 'juggling_chainsaws'"):
        plan_evaluation(open_dataset(data), model, EvalSettings())


def test_an_empty_dataset_is_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n")
    done = vt_here("eval", "--dataset", tmp_path / "list.csv", "-m", model, "-o", tmp_path / "run")
    assert done.returncode == 7
    assert not (tmp_path / "run").exists()


def test_a_label_outside_the_classes_is_refused(tmp_path: Path, model: Path) -> None:
    layouts.video(tmp_path / "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\na.mp4 99\n")
    done = vt_here("eval", "--dataset", tmp_path / "list.txt", "-m", model, "-o", tmp_path / "run")
    assert done.returncode == 7, done.stderr
    assert done.stderr.count("vt: error:") == 1


def test_a_run_of_another_model_or_protocol_is_refused(
    model: Path, videos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    other = model_file(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(DataError, match="a run with another model"):
        evaluate(videos, other, uninterrupted)
    with pytest.raises(DataError, match=r"another protocol \(clips\): '2', not '1'"):
        evaluate(videos, model, uninterrupted, views="1x1")
    with pytest.raises(DataError, match="another decoder: 'pyav', not 'decord'"):
        evaluate(videos, model, uninterrupted, decoder="decord")
    with pytest.raises(DataError, match="already holds a run"):
        evaluate(videos, model, uninterrupted, resume=False)


@pytest.mark.parametrize("flag", ["strict", "compile"])
def test_a_run_keeps_its_flags(flag: str, tmp_path: Path) -> None:
    for begun, resumed, told in (({flag: True}, {}, "with"), ({}, {flag: True}, "without")):
        run = RunDirectory(tmp_path / told)
        with run.locked(begun, {}, True):
            pass
        with (
            pytest.raises(DataError, match=f"another setting of --{flag}: {told} it; name another"),
            run.locked(resumed, {}, True),
        ):
            pass


def test_a_run_of_other_videos_under_the_same_name_is_refused(
    model: Path, videos: Path, tmp_path: Path
) -> None:
    evaluate(videos, model, tmp_path / "run")
    summary = (tmp_path / "run" / "summary.json").read_bytes()
    other = class_folders(tmp_path / "videos", 1)
    with pytest.raises(DataError, match="on other videos"):
        evaluate(other, model, tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").read_bytes() == summary
    shutil.copytree(videos / "archery", other / "archery", dirs_exist_ok=True)  # with its times
    assert evaluate(other, model, tmp_path / "run").read == 10


def test_processes_that_see_different_videos_are_refused(
    model: Path, videos: Path, tmp_path: Path
) -> None:
    class Two(Group):
        def all_gather(self, value: T) -> list[T]:
            gathered.append(value)
            return gathered[-2:]  # type: ignore[return-value]

    gathered: list[object] = []
    data = shutil.copytree(videos, tmp_path / "videos")
    plan = plan_evaluation(open_dataset(data), model, EvalSettings())
    Evaluator(plan, tmp_path / "run", Two())
    Evaluator(plan, tmp_path / "run", Two())
    next(data.rglob("*.mp4")).unlink()
    plan = plan_evaluation(open_dataset(data), model, EvalSettings())
    with pytest.raises(DataError, match="do not see the same model and the same videos"):
        Evaluator(plan, tmp_path / "run", Two())


def test_two_runs_do_not_write_into_one_folder(model: Path, videos: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.locked({}, {}, True):
        done = vt("eval", "--dataset", videos, "-m", model, "-o", tmp_path / "run")
    assert done.returncode == 7
    assert "is being written by another run" in done.stderr


def test_running_out_of_memory_suggests_a_smaller_batch(
    model: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def too_large(net: object, batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(scoring, "forward", too_large)
    with pytest.raises(OutOfMemoryError, match="-b 4"):
        evaluate(videos, model, tmp_path / "run", batch_size=8)


def test_wrong_settings_are_usage_errors(model: Path, videos: Path) -> None:
    for wrong in ({"views": "4"}, {"precision": "int8"}, {"pipeline": "none"}, {"label_set": "k8"}):
        with pytest.raises(UsageError):
            plan_evaluation(open_dataset(videos), model, EvalSettings(**wrong))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a tmpfs to fill")
def test_a_full_disk_stops_with_a_sentence_and_keeps_what_was_scored(
    model: Path, videos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        words = ("eval", "--dataset", videos, "-m", model, "-b", "2", "-o", small / "run")
        done = vt(*words)
        assert done.returncode == 7, done.stderr
        assert "the disk is full" in done.stderr
        before = scores_of(small / "run")
        assert before.items() <= scores_of(uninterrupted).items()
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        assert vt(*words).returncode == 0
        assert scores_of(small / "run") == scores_of(uninterrupted)
    finally:
        subprocess.run(["umount", str(small)], check=False)
