"""What an explanation shows is what the score depends on."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from vtcli.cli import run
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_USAGE
from vtcli.inference.explain import explain, grid_side, integrated_gradients
from vtcli.inference.explain_timeline import explain_segments
from vtcli.inference.predictor import Predictor
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Timeline
from vtcli.synthetic.motion8 import draw_scene, encode, render

MODELS = ("uniformerv2-nano", "videoswin-nano", "vivit-nano", "xvit-nano")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode(render(draw_scene("test", "right", 0))))
    return path


@pytest.mark.parametrize("model", MODELS)
def test_the_important_tenth_matters_more_than_a_random_one(model: str, clip: Path) -> None:
    with Predictor(model, precision="fp32", workers=0) as predictor:
        found = explain(predictor, str(clip))
        (outcome,) = predictor.predict([clip])
    assert not outcome.failed
    best = outcome.predictions[0]  # type: ignore[union-attr]
    assert (found.label, found.deletion.score) == (best.label, pytest.approx(best.score, abs=1e-5))
    assert found.deletion.is_faithful
    T = len(found.times)
    assert found.relevance.shape == (T, 8, 8)
    assert found.frames.shape == (T, 32, 32, 3)
    assert found.frame_importance.sum() == pytest.approx(1)


class Linear:
    """log p of class 0 depends on one cell alone: two classes, the second one constant."""

    dtype = torch.float32

    def __init__(self) -> None:
        self.weight = torch.zeros(3, 4, 32, 32)
        self.weight[:, 2, 8:12, 16:20] = 1.0

    def parameters(self, recurse: bool = True) -> object:
        return iter([self.weight])

    def __call__(self, clips_B3THW: torch.Tensor) -> torch.Tensor:
        score_B = (clips_B3THW * self.weight).flatten(1).sum(1)
        return torch.stack([score_B, torch.zeros_like(score_B)], 1)


def test_contributions_add_up_to_the_difference_in_log_probability() -> None:
    net = Linear()
    clip = torch.randn(3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    relevance = integrated_gradients(net, clip, 0, points=200)  # type: ignore[arg-type]
    empty = clip.mean((1, 2, 3), keepdim=True).expand_as(clip)
    log_p = [net(one[None]).log_softmax(-1)[0, 0].item() for one in (clip, empty)]
    assert relevance.sum() == pytest.approx(log_p[0] - log_p[1], abs=1e-3)
    assert np.argwhere(np.abs(relevance) > 1e-6).tolist() == [[2, 2, 4]]


def test_cells_divide_a_frame() -> None:
    assert [grid_side(size) for size in (224, 336, 384, 320, 32, 30)] == [14, 14, 16, 16, 8, 2]


@pytest.mark.slow
def test_every_format_is_written(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["explain", str(clip), "-m", "xvit-nano"]
    assert run([*command, "-o", str(tmp_path / "why.png"), "--format", "json"]) == EXIT_OK
    table = json.loads(capsys.readouterr().out)
    assert table["label"] == "right"
    assert len(table["frames"]) == 8
    with Image.open(tmp_path / "why.png") as sheet:
        assert sheet.size == (8 * 160, 160 + 32)
    assert run([*command, "--class", "left", "-o", str(tmp_path / "why.mp4")]) == EXIT_OK
    assert capsys.readouterr().out.startswith("left: ")
    with av.open(str(tmp_path / "why.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8
    assert run([*command, "-o", str(tmp_path / "why.html")]) == EXIT_OK
    page = (tmp_path / "why.html").read_text()
    assert page.count("<img ") == 8
    assert "Why right?" in page


def test_what_cannot_be_explained_is_refused(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "why.png")
    assert run(["explain", str(clip), "-m", "xvit-nano", "-o", "why.gif"]) == EXIT_USAGE
    assert run(["explain", str(clip), "-m", "xvit-nano", "-o", out, "--class", "x"]) == EXIT_USAGE
    assert "its classes are approach, clockwise" in capsys.readouterr().err
    noise = tiny.video(tmp_path / "noise.mp4")
    noise.write_bytes(b"noise")
    assert run(["explain", str(noise), "-m", "xvit-nano", "-o", out]) == EXIT_NO_INPUT
    assert not Path(out).exists()


def test_each_event_has_its_heat_and_nothing_else_has(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    parts = [render(draw_scene("test", motion, 0)) for motion in ("right", "left")]
    film.write_bytes(encode(np.concatenate(parts)))
    with Predictor("vivit-nano", precision="fp32", workers=0) as predictor:
        timeliner = TimelinePredictor(predictor, 0.6, 0.2, events="background=left")
        (timeline,) = timeliner.predict([film])
        assert isinstance(timeline, Timeline)
        heat = explain_segments(timeliner, timeline, lambda path, done, total: None)
    for segment in timeline.segments:
        inside = [(a, b) for a, b, _ in heat.parts if segment.start <= a < b <= segment.end]
        assert sum(b - a for a, b in inside) > 0.5 * (segment.end - segment.start)
    times = np.arange(48) / 15
    has_event = [any(s.start <= t < s.end for s in timeline.segments) for t in times]
    assert 0 < sum(has_event) < 48
    for time, event in zip(times, has_event, strict=True):
        planes = [np.full((80, 80), 100, np.uint8), *(np.full((40, 40), 99, np.uint8),) * 2]
        heat.draw(planes, float(time))
        assert event or planes[1].min() == planes[1].max() == 99


def test_events_are_explained_in_an_annotated_video(clip: Path, tmp_path: Path) -> None:
    command = ["predict", str(clip), "-m", "vivit-nano", "-j", "0", "--explain"]
    output = ["--annotate", str(tmp_path / "out.mp4")]
    assert run([*command, *output, "--events"]) == EXIT_OK
    assert run([*command, *output, "--events", "--event-rule", "on=1,off=1"]) == EXIT_OK
    assert run([*command, *output, "--window", "1s"]) == EXIT_USAGE
