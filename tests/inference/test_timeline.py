"""A window is scored like a video of its own; windows are merged to segments without overlap."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import vtcli
from tests import tiny
from tests.evaluation.harness import model_file
from tests.video.barcode import write_clip
from vtcli.errors import UsageError, VideoDecodeError
from vtcli.inference import timeline
from vtcli.inference.predictor import Predictor
from vtcli.inference.scoring import ClassPrediction
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import (
    Timeline,
    Window,
    WindowPrediction,
    merge_windows,
    parse_duration,
    plan_windows,
    window_territories,
)
from vtcli.video.decode import Limits, read_frames
from vtcli.video.pipeline import plan_views
from vtcli.video.views import clip_tensors, probabilities

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 seconds at 25 frames a second."""
    return tiny.video(tmp_path_factory.mktemp("clip") / "clip.mp4", 100)


def timeline_of(clip: Path, model: Path, **settings: object) -> Timeline:
    window = {name: settings.pop(name) for name in ("window", "stride") if name in settings}
    predictor = Predictor(model, precision="fp32", **settings)
    (outcome,) = TimelinePredictor(predictor, **window).predict([clip])
    assert isinstance(outcome, Timeline), outcome.error
    return outcome


def even(frames: int, fps: float = 25.0) -> np.ndarray:
    """The times of frames that are evenly spaced, and their end."""
    return np.arange(frames + 1) / fps


# --- times as they are typed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2.0),
        ("500ms", 0.5),
        ("1.5", 1.5),
        (".5s", 0.5),
        ("00:01:30", 90.0),
        ("1:02:03.5", 3723.5),
        ("1:30", 90.0),
        (" 2s ", 2.0),
    ],
)
def test_durations_have_several_notations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--window") == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-2s", "2x", "1e3", "inf", "nan", "2 s", "1:60", "1:2:3:4", "5ms", "²s"]
)
def test_an_invalid_duration_is_refused_naming_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--stride"):
        parse_duration(text, "--stride")


# --- windows --------------------------------------------------------------------------------------


def test_there_is_a_window_every_stride_with_the_frames_of_its_time() -> None:
    windows = plan_windows(even(100), 2.0, 0.5)
    assert windows == [Window(k / 2, k / 2 + 2, round(12.5 * k + 0.1), 50) for k in range(5)]


def test_the_last_window_ends_with_the_video() -> None:
    windows = plan_windows(even(105), 2.0, 1.0)
    assert [w.start for w in windows] == pytest.approx([0, 1, 2, 2.2])
    assert windows[-1] == Window(pytest.approx(2.2), pytest.approx(4.2), 55, 50)


@pytest.mark.parametrize(("frames", "window"), [(100, 4.0), (100, 60.0), (1, 2.0)])
def test_a_video_no_longer_than_the_window_is_a_single_window(frames: int, window: float) -> None:
    assert plan_windows(even(frames), window, 0.5) == [Window(0, frames / 25, 0, frames)]


@pytest.mark.parametrize("fps", [23.976, 25, 29.97, 59.94])
@pytest.mark.parametrize(("window", "stride"), [(2, 0.5), (1, 1), (0.7, 0.3), (0.01, 0.01)])
def test_without_gaps_every_frame_is_in_a_window(fps: float, window: float, stride: float) -> None:
    windows = plan_windows(even(100, fps), window, stride)
    seen = {i for w in windows for i in range(w.first, w.first + w.frames)}
    assert seen == set(range(100))
    assert all(w.frames >= 1 for w in windows)
    assert windows[0].start == 0
    assert windows[-1].end == pytest.approx(100 / fps)


def test_frames_belong_to_windows_by_their_timestamps() -> None:
    # Ten frames in the first second, then one that is shown for three.
    times = np.array([*np.arange(10) / 10, 1.0, 4.0])
    windows = plan_windows(times, 1.0, 1.0)
    assert [(w.first, w.frames) for w in windows] == [(0, 10), (10, 1), (10, 1), (10, 1)]


def test_each_moment_is_in_the_territory_of_one_window() -> None:
    for window, stride in ((2, 0.5), (2, 2), (1, 0.9), (2, 1.5)):
        windows = plan_windows(even(257), window, stride)
        spans = window_territories(windows)
        assert spans[0][0] == 0
        assert spans[-1][1] == windows[-1].end
        for (_, end), (start, _) in pairwise(spans):
            assert end == start
        for w, (start, end) in zip(windows, spans, strict=True):
            assert w.start <= start < end <= w.end
    gaps = window_territories([Window(0, 1, 0, 25), Window(3, 4, 75, 25)])
    assert gaps == [(0, 1), (3, 4)]


# --- segments -------------------------------------------------------------------------------------


def predicted(
    *top1: tuple[str, float], window: float = 2.0, stride: float = 1.0
) -> list[WindowPrediction]:
    """One window per (label, score), one every stride."""
    return [
        WindowPrediction(
            Window(k * stride, k * stride + window, 0, 1),
            {"action": (ClassPrediction(ord(label), label, score, score),)},
        )
        for k, (label, score) in enumerate(top1)
    ]


def segments(windows: list[WindowPrediction], min_score: float = 0.0) -> list[tuple[object, ...]]:
    return [
        (s.label, s.start, s.end, s.score, s.windows) for s in merge_windows(windows, min_score)
    ]


def test_neighbors_with_the_same_class_are_one_segment_with_their_mean_score() -> None:
    windows = predicted(("a", 0.5), ("a", 1.0), ("b", 0.75), ("a", 0.25))
    assert segments(windows) == [
        ("a", 0.0, 2.5, 0.75, 2),
        ("b", 2.5, 3.5, 0.75, 1),
        ("a", 3.5, 5.0, 0.25, 1),
    ]


def test_a_score_below_min_score_leaves_a_gap() -> None:
    windows = predicted(("a", 0.9), ("a", 0.1), ("a", 0.5), ("b", 0.1))
    assert segments(windows, 0.5) == [("a", 0.0, 1.5, 0.9, 1), ("a", 2.5, 3.5, 0.5, 1)]
    assert segments(windows, 1.0) == []


def test_windows_that_do_not_touch_are_segments_of_their_own() -> None:
    windows = predicted(("a", 0.5), ("a", 0.5), window=1.0, stride=3.0)
    assert segments(windows) == [("a", 0.0, 1.0, 0.5, 1), ("a", 3.0, 4.0, 0.5, 1)]


# --- predictions of a model -----------------------------------------------------------------------


@pytest.mark.parametrize(("window", "stride"), [(1.0, 0.6), (0.6, 0.6), (0.3, 1.1)])
def test_a_window_is_scored_like_a_video_that_holds_only_its_frames(
    window: float, stride: float, model: Path, clip: Path
) -> None:
    found = timeline_of(clip, model, window=window, stride=stride, topk=8)
    net = vtcli.load_model(model)
    pipeline = net.card.pipeline
    frames_NHWC = read_frames(clip, range(100))
    for prediction in found.windows:
        first, count = prediction.window.first, prediction.window.frames
        (view,) = plan_views(pipeline, count, 25.0, 1, 1)
        own = frames_NHWC[first : first + count][list(view.frame_indices)]
        with torch.inference_mode():
            expected = probabilities(net(clip_tensors(own, pipeline, [0], 1)), pipeline.view_fusion)
        for one in prediction.heads["action"]:
            assert one.score == pytest.approx(expected[one.index].item(), abs=1e-5)
        assert prediction.best.index == int(expected.argmax())


@pytest.mark.parametrize("name", ["videoswin-kinetics", "vivit-kinetics", "xvit-kinetics"])
def test_other_sampling_and_resizing_rules_are_followed(name: str, model: Path, clip: Path) -> None:
    try:
        predictor = Predictor(model, precision="fp32", pipeline=name, topk=8)
    except UsageError as error:
        pytest.skip(str(error))
    (found,) = TimelinePredictor(predictor, 1.0, 0.7).predict([clip])
    assert isinstance(found, Timeline)
    net, pipeline = predictor.net, predictor.pipeline
    frames_NHWC = read_frames(clip, range(100))
    for prediction in found.windows[::3]:
        first, count = prediction.window.first, prediction.window.frames
        (view,) = plan_views(pipeline, count, 25.0, 1, 1)
        own = frames_NHWC[first : first + count][list(view.frame_indices)]
        with torch.inference_mode():
            expected = probabilities(net(clip_tensors(own, pipeline, [0], 1)), pipeline.view_fusion)
        assert prediction.best.score == pytest.approx(expected.max().item(), abs=1e-5)


def test_the_batch_size_changes_nothing(model: Path, clip: Path) -> None:
    one, many = (
        timeline_of(clip, model, window=1.0, stride=0.25, batch_size=size) for size in (1, 64)
    )
    assert [s.label for s in one.segments] == [s.label for s in many.segments]
    for a, b in zip(one.windows, many.windows, strict=True):
        assert a.best.score == pytest.approx(b.best.score, abs=1e-5)


def test_a_video_shorter_than_the_window_is_one_segment_with_a_notice(
    model: Path, clip: Path
) -> None:
    found = timeline_of(clip, model, window=60.0, stride=1.0)
    (segment,) = found.segments
    assert (segment.start, segment.end, segment.windows) == (0.0, pytest.approx(4.0), 1)
    whole = vtcli.predict(clip, model=model, precision="fp32").predictions[0]
    assert (segment.label, segment.score) == (whole.label, pytest.approx(whole.score, abs=1e-6))
    assert "lasts 4.00 s, less than the window of 60 s" in found.notice


def test_a_stride_longer_than_the_window_leaves_gaps_with_a_notice(model: Path, clip: Path) -> None:
    found = timeline_of(clip, model, window=0.5, stride=1.5)
    assert [w.window.start for w in found.windows] == pytest.approx([0, 1.5, 3.0, 3.5])
    assert "1 s of every 1.5 s" in found.notice
    assert timeline_of(clip, model, window=0.5).notice == ""


def test_each_needed_frame_is_decoded_once_and_dropped_after_its_last_window(
    model: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtcli.video import sequential

    decoded: list[int] = []
    requested: list[list[int]] = []

    def spied(info: object, indices: object, threads: int = 1) -> object:
        requested.append(list(indices))  # type: ignore[call-overload]
        for index, frame in original(info, indices, threads):  # type: ignore[arg-type]
            decoded.append(index)
            yield index, frame

    original = sequential.stream_frames
    monkeypatch.setattr(sequential, "stream_frames", spied)
    found = timeline_of(clip, model, window=1.0, stride=0.25, workers=0)
    assert len(requested) == 1
    assert decoded == sorted(set(decoded))
    assert len(decoded) < sum(8 for _ in found.windows)


def test_windows_that_share_too_many_frames_are_refused_before_decoding(
    model: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second has 25 frames, all of which are shown by windows of 8 about every 1/25 s.
    held = 25 * 3 * 32 * 32 * 4
    predictor = TimelinePredictor(Predictor(model), 1.0, 0.041)
    for limit, fits in ((held, True), (held // 2, False)):
        monkeypatch.setattr("vtcli.video.decode.DEFAULT_LIMITS", Limits(max_bytes=limit))
        (outcome,) = predictor.predict([clip])
        assert outcome.failed is not fits
        if not fits:
            assert outcome.error is not None
            assert outcome.error.reason == "limit"
            assert "longer --stride" in str(outcome.error)


def test_too_many_windows_are_refused(
    model: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "MAX_WINDOWS", 10)
    (outcome,) = TimelinePredictor(Predictor(model), 1.0, 0.1).predict([clip])
    assert outcome.failed
    assert "over 10 windows" in str(outcome.error)


def test_a_file_that_fails_is_reported_in_its_place(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    whole = write_clip(tmp_path / "a.mp4", container_options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    paths = [str(tmp_path / "none.mp4"), str(clip), str(cut)]
    outcomes = list(TimelinePredictor(Predictor(model), 1.0).predict(paths))
    assert [o.path for o in outcomes] == paths
    errors = [o.error for o in outcomes]
    assert errors[1] is None
    assert [e.reason for e in errors if isinstance(e, VideoDecodeError)] == [
        "not_found",
        "missing_frames",
    ]


def test_settings_that_a_timeline_cannot_have_are_refused(model: Path) -> None:
    for wrong in ({"views": "2x1"}, {"views": "1x3"}, {"decoder": "decord"}):
        with pytest.raises(UsageError, match="leave out --"):
            TimelinePredictor(Predictor(model, **wrong), 1.0)


def test_progress_counts_the_windows_of_a_file(model: Path, clip: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    predictor = TimelinePredictor(
        Predictor(model), 1.0, on_window=lambda *step: reported.append(step)
    )
    list(predictor.predict([clip]))
    assert reported == [(str(clip), number, 4) for number in range(1, 5)]


def test_the_result_is_json_and_states_its_settings(model: Path, clip: Path) -> None:
    predictor = TimelinePredictor(Predictor(model, topk=2, precision="fp32"), 1.0, 0.5, 0.1)
    (found,) = predictor.predict([clip])
    header, table = json.loads(json.dumps([dict(predictor.header), found.to_dict()]))
    assert (header["schema"], header["kind"]) == (1, "timeline")
    assert (header["window"], header["stride"], header["min_score"]) == (1.0, 0.5, 0.1)
    assert (header["precision"], header["device"]) == ("fp32", "cpu")
    assert set(table["segments"][0]) == {"start", "end", "index", "label", "score", "windows"}
    assert [w["start"] for w in table["windows"]] == [k / 2 for k in range(7)]
    assert len(table["windows"][0]["predictions"]) == 2
    assert list(found) == list(found.segments)
    assert (len(found), found[0]) == (len(found.segments), found.segments[0])
    assert str(found).count("%") == len(found)
    assert found._repr_html_().count("<tr>") == len(found)


def test_a_timeline_of_two_heads_has_segments_of_their_pairs(clip: Path, tmp_path: Path) -> None:
    two = model_file(
        tmp_path / "two.safetensors", {"noun": ["cup", "plate"], "verb": ["take", "put", "wash"]}
    )
    found = timeline_of(clip, two, window=2.0)
    assert set(found.windows[0].heads) == {"action", "noun", "verb"}
    assert all(len(segment.label.split()) == 2 for segment in found.segments)
    assert "heads" in found.to_dict()["windows"][0]
