"""The prediction for a video is what upstream's sampling, transforms and fusion give."""

from __future__ import annotations

import csv
import gc
import io
import json
import threading
from pathlib import Path

import pytest
import torch

import vtcli
from tests import tiny
from tests.video.barcode import write_clip
from vtcli.cli import run
from vtcli.errors import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    DataError,
    InputError,
    OutOfMemoryError,
    UsageError,
    VideoDecodeError,
)
from vtcli.inference import loading, scoring
from vtcli.inference.inputs import find_videos
from vtcli.inference.predictor import Predictor, PredictSettings
from vtcli.inference.scoring import score_clips
from vtcli.inference.timeline import TimelinePredictor
from vtcli.video.decode import read_frames
from vtcli.video.pipeline import parse_views, plan_views
from vtcli.video.views import clip_tensors
from vtcli.weights.convert import convert


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a tiny checkpoint that is stored on this disk."""
    src = tiny.official_file(tmp_path / "tiny.pyth")
    path = tiny.registry_file(tmp_path / "own.toml", tiny.local_source(src))
    monkeypatch.setenv("VT_REGISTRY", str(path))
    return "tiny.k400-8f"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny.video(tmp_path / "clip.mp4")


def test_a_prediction_is_the_fused_score_of_the_published_views(model: str, clip: Path) -> None:
    result = vtcli.predict(clip, model=model, topk=400, views="paper", precision="fp32")
    net = vtcli.load_model(model)
    pipeline = net.card.pipeline
    views = plan_views(pipeline, 20, 25.0)
    with torch.inference_mode():
        logits = torch.cat(
            [
                net(clip_tensors(read_frames(clip, v.frame_indices), pipeline, [v.crop]))
                for v in views
            ]
        )
    expected = logits.softmax(-1)
    got = {p.label: p for p in result.predictions}
    for index, label in enumerate(net.labels):
        assert got[label].upstream_score == pytest.approx(expected.sum(0)[index].item(), abs=1e-5)
        assert got[label].score == pytest.approx(expected.mean(0)[index].item(), abs=1e-5)
    scores = [p.upstream_score for p in result.predictions]
    assert scores == sorted(scores, reverse=True)
    assert len(result.results[0].views) == 12


def test_one_center_view_is_the_default(model: str, clip: Path) -> None:
    result = vtcli.predict(clip, model=model)
    assert result.to_dict()["views"] == "1x1"
    assert len(result.predictions) == 5


def test_the_result_is_json_and_states_its_settings(model: str, clip: Path) -> None:
    table = json.loads(json.dumps(vtcli.predict(clip, model=model, precision="fp32").to_dict()))
    assert (table["model"], table["precision"], table["view_fusion"]) == (model, "fp32", "sum_prob")
    only = table["results"][0]
    assert (only["frames"], only["fps"], only["width"], only["height"]) == (20, 25.0, 64, 48)
    assert set(only["predictions"][0]) == {"index", "label", "score", "upstream_score"}


def test_the_batch_size_does_not_change_the_prediction(model: str, clip: Path) -> None:
    alone, together = (
        vtcli.predict(clip, model=model, views="4x3", precision="fp32", batch_size=size)
        for size in (1, 12)
    )
    for a, b in zip(alone.predictions, together.predictions, strict=True):
        assert a.label == b.label
        assert a.upstream_score == pytest.approx(b.upstream_score, abs=1e-5)


def test_a_file_that_fails_is_reported_and_the_others_are_predicted(
    model: str, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_text("not a video")
    sources = [tmp_path / "missing.mp4", clip, tmp_path / "broken.mp4", clip]
    result = vtcli.predict(sources, model=model)
    assert [r.path for r in result.results] == [str(clip)] * 2
    assert [f.error.reason for f in result.failures] == ["not_found", "not_video"]
    with pytest.raises(VideoDecodeError, match="missing"):
        vtcli.predict(tmp_path / "missing.mp4", model=model)


def test_a_model_is_converted_once_and_then_found_in_the_cache(
    model: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = vtcli.predict(clip, model=model).to_dict()
    (tmp_path / "tiny.pyth").unlink()
    second = vtcli.predict(clip, model=model).to_dict()
    assert first["results"][0]["predictions"] == second["results"][0]["predictions"]
    tiny.official_file(tmp_path / "tiny.pyth", seed=1)
    third = vtcli.predict(clip, model=model).to_dict()
    assert third["results"][0]["predictions"] != first["results"][0]["predictions"]


def test_a_path_to_our_file_is_a_model(model: str, clip: Path, tmp_path: Path) -> None:
    ours = tmp_path / "m.safetensors"
    convert(tmp_path / "tiny.pyth", ours, model=model)
    assert vtcli.predict(clip, model=ours).to_dict()["model"] == model
    with pytest.raises(InputError, match="there is no file"):
        vtcli.predict(clip, model=tmp_path / "none.safetensors")


def test_folders_and_patterns_are_expanded_to_videos(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.mp4", "a.mkv", "notes.txt", "deep/c.webm"):
        (tmp_path / name).touch()
    videos = [str(tmp_path / n) for n in ("a.mkv", "b.mp4", "deep/c.webm")]
    assert find_videos([tmp_path]) == videos
    assert find_videos([f"{tmp_path}/*.m??"]) == videos[:2]
    assert find_videos(["gone.mp4"]) == ["gone.mp4"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "folder.mp4").mkdir()
    (tmp_path / "empty" / "._hidden.mp4").touch()
    assert find_videos([tmp_path / "empty"]) == [str(tmp_path / "empty")]


def test_views_are_clips_times_crops(model: str) -> None:
    pipeline = vtcli.load_model(model).card.pipeline
    assert parse_views(None, pipeline) == (1, 1)
    assert parse_views("paper", pipeline) == (4, 3)
    assert parse_views("2x3", pipeline) == (2, 3)
    for wrong in ("3", "4x2", "0x1", "x", "4x-3", "²x1", "all"):
        with pytest.raises(UsageError, match="CLIPSxCROPS"):
            parse_views(wrong, pipeline)


def test_bad_settings_are_named(model: str, clip: Path) -> None:
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        vtcli.predict(clip, model=model, precision="int4")
    with pytest.raises(UsageError, match="no device 'tpu'"):
        vtcli.predict(clip, model=model, device="tpu")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        vtcli.predict(clip, model=model, precision="fp16", device="cpu")


def test_nan_logits_are_an_error(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = vtcli.load_model(model)
    with pytest.raises(DataError, match="NaN"):
        score_clips(net, [torch.full((3, 8, 32, 32), float("nan"))], None)


def test_a_batch_that_does_not_fit_is_halved(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, forward, sizes = vtcli.load_model(model), scoring.forward, []

    def small_device(net: object, clips: torch.Tensor) -> object:
        sizes.append(len(clips))
        if len(clips) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return forward(net, clips)

    monkeypatch.setattr(scoring, "forward", small_device)
    clips = list(torch.randn(5, 3, 8, 32, 32))
    limit = 1
    assert score_clips(net, clips, 4)["action"].shape == (5, 400)
    assert max(sizes) == 4
    limit = 0
    with pytest.raises(OutOfMemoryError, match="one view"):
        score_clips(net, clips, 4)


def test_another_pipeline_of_the_registry_can_be_chosen(model: str, clip: Path) -> None:
    own, other = (
        Predictor(model, views="2x1", precision="fp32", pipeline=name)
        for name in (None, "videoswin-kinetics")
    )
    (a,), (b,) = own.predict([clip]), other.predict([clip])
    assert other.pipeline.frames == own.pipeline.frames
    assert a.views != b.views
    with pytest.raises(UsageError, match="known are uniformerv2-kinetics"):
        Predictor(model, pipeline="none")


def test_the_weights_are_loaded_once_per_predictor(
    model: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], loading.load_resolved
    monkeypatch.setattr(
        loading,
        "load_resolved",
        lambda *a: loads.append(a) or load(*a),  # type: ignore[func-returns-value]
    )
    predictor = Predictor(model, topk=2, precision="fp32")
    assert predictor.header["device"] == "auto"
    (first,), (second,) = predictor.predict([clip]), predictor.predict([str(clip)])
    (timeline,) = TimelinePredictor(predictor, window=0.4).predict([clip])
    (same,) = predictor.windows([clip], window=0.4)
    assert not same.failed
    assert same.windows == timeline.windows
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="window is a number of seconds of at least"):
            predictor.windows([clip], wrong)
    assert first.predictions == second.predictions
    assert not timeline.failed
    assert len(loads) == 1
    assert (predictor.header["device"], predictor.header["precision"]) == ("cpu", "fp32")


def test_options_replace_fields_of_the_settings(model: str) -> None:
    settings = PredictSettings(topk=3, precision="fp32")
    predictor = vtcli.Predictor(model, settings, topk=1)
    assert predictor.settings == PredictSettings(topk=1, precision="fp32")
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_k'"):
        Predictor(model, top_k=1)
    for wrong, least in (({"topk": 0}, 1), ({"batch_size": 0}, 1), ({"workers": -1}, 0)):
        ((name, value),) = wrong.items()
        with pytest.raises(UsageError, match=f"{name} must be at least {least}, not {value}"):
            Predictor(model, **wrong)


def test_weights_are_not_loaded_for_files_that_do_not_exist(model: str, tmp_path: Path) -> None:
    predictor = Predictor(model)
    (outcome,) = predictor.predict([tmp_path / "none.mp4"])
    assert outcome.failed
    assert predictor.header["device"] == "auto"


def test_no_decoding_thread_outlives_a_prediction(model: str, clip: Path) -> None:
    before = set(threading.enumerate())  # other tests may still hold predictions of their own

    def threads() -> list[threading.Thread]:
        found = [t for t in threading.enumerate() if t.name.startswith("prefetch")]
        return [thread for thread in found if thread not in before]

    outcomes = Predictor(model, workers=2).predict([clip] * 8)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert not threads()
    with pytest.raises(UsageError, match="no device 'tpu'"):
        Predictor(model, device="tpu").predict([clip])
    assert not threads()


def test_predictions_that_are_never_asked_for_leave_no_thread(model: str, clip: Path) -> None:
    gc.disable()  # a thread that only goes with the next collection outlives the command
    try:
        before = set(threading.enumerate())
        with Predictor(model) as predictor:
            predictor.predict([clip, clip]).close()
            assert all(t.name == "workers" for t in set(threading.enumerate()) - before)
        assert run(["predict", str(clip), "-m", model, "-o", str(clip / "o.json")])
        assert set(threading.enumerate()) <= before
    finally:
        gc.enable()


@pytest.fixture
def cut_gif(tmp_path: Path) -> Path:
    """A GIF whose trailer and last frames are missing; the rest is readable."""
    whole = write_clip(tmp_path / "whole.gif", "gif", pix_fmt="rgb8").read_bytes()
    path = tmp_path / "cut.gif"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


def test_signs_of_damage_are_in_every_output_and_on_stderr(
    model: str, cut_gif: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(cut_gif), str(clip)]
    assert run(["predict", *paths, "-m", model, "--format", "json"]) == EXIT_OK
    out, err = capsys.readouterr()
    damaged, intact = json.loads(out)["results"]
    assert any("truncated" in warning for warning in damaged["warnings"])
    assert intact["warnings"] == []
    lines = [line for line in err.splitlines() if line.startswith("vt: warning: ")]
    assert len(lines) == 1
    assert str(cut_gif) in lines[0]
    assert run(["predict", *paths, "-m", model, "--format", "csv", "-k", "1"]) == EXIT_OK
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert "truncated" in rows[0]["warnings"]
    assert rows[1]["warnings"] == ""


@pytest.mark.parametrize("window", [[], ["--window", "500ms"]])
def test_strict_makes_a_damaged_video_a_failure(
    model: str,
    cut_gif: Path,
    clip: Path,
    window: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["predict", str(cut_gif), str(clip), "-m", model, "--format", "json", "--strict"]
    assert run([*words, *window]) == EXIT_SOME_FAILED
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure["reason"] == "corrupt"
    assert "--strict" in failure["error"]
