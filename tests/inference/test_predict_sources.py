"""`vtcli.predict` takes videos in files and in memory, and networks as well as names; anything else
is named.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vtcli
from tests import tiny
from vtcli.errors import UsageError, VideoDecodeError
from vtcli.video.decode import read_frames

MODEL = "uniformerv2-nano"


@pytest.fixture(scope="module")
def network() -> Any:
    return vtcli.load_model(MODEL)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.video(tmp_path_factory.mktemp("sources") / "clip.mp4")


def scores(result: Any) -> list[tuple[str, float]]:
    return [(p.label, round(p.score, 4)) for p in result[0].predictions]


def test_bytes_files_and_frames_are_predicted_as_the_file_is(network: Any, clip: Path) -> None:
    expected = vtcli.predict(clip, model=network)
    with clip.open("rb") as file:
        of_file = vtcli.predict(file, model=network)
    assert of_file[0].path == str(clip)
    frames = read_frames(clip, range(20))
    for result in (
        of_file,
        vtcli.predict(clip.read_bytes(), model=network),
        vtcli.predict(io.BytesIO(clip.read_bytes()), model=network),
        vtcli.predict(frames, model=network, fps=25),
        vtcli.predict(torch.from_numpy(frames), model=network, fps=25.0),
    ):
        assert scores(result) == scores(expected)


def test_a_network_gives_what_its_name_gives(network: Any, clip: Path) -> None:
    named = vtcli.predict(clip, model=MODEL, precision="fp32")
    result = vtcli.predict(clip, model=network)
    assert scores(result) == scores(named)
    assert result.header["model"] == named.header["model"]
    assert not network.training


def test_a_list_may_mix_what_it_holds_and_keeps_its_order(network: Any, clip: Path) -> None:
    sources = [b"junk", str(clip), clip.read_bytes(), "missing.mp4"]
    result = vtcli.predict(sources, model=network)
    assert [outcome.failed for outcome in result] == [True, False, False, True]
    assert (len(result), len(result.results), len(result.failures)) == (4, 2, 2)
    assert result[1].label == result.results[0].label
    text = str(result)
    assert text.count("%") == 2 * 5
    assert "missing.mp4: " in text
    assert f"{result[1].label!r}" in repr(result)
    rows = result._repr_html_().split("<tr>")[1:]
    assert len(rows) == 4
    assert "not_video" in rows[0]


def test_what_is_not_a_video_or_a_model_is_a_sentence(network: Any, clip: Path) -> None:
    frames = np.zeros((20, 48, 64, 3), np.uint8)
    for source, options, said in (
        (7, {}, "a video is a path, bytes, .* not int"),
        ({"path": "clip.mp4"}, {}, "not dict"),
        ([7], {}, "not int"),
        (frames, {}, r"predict\(frames, fps=25\)"),
        (frames.astype(float), {"fps": 25}, "uint8 .* not float64"),
        (io.StringIO("text"), {}, "binary mode"),
        (clip, {"model": 7}, "a model is a name, a path or a network of vtcli.load_model, not int"),
        (clip, {"model": torch.nn.Linear(2, 2)}, "no model card"),
    ):
        with pytest.raises(TypeError, match=said):
            vtcli.predict(source, **{"model": network, **options})
    predictor = vtcli.Predictor(network, workers=0)
    for paths, said in ((frames, "predict_frames"), ([b"x"], "predict_bytes"), ([7], "not by int")):
        with pytest.raises(TypeError, match=said):
            predictor.predict(paths)
    with pytest.raises(UsageError, match="keeps its precision"):
        vtcli.predict(clip, model=network, precision="bf16")
    with pytest.raises(VideoDecodeError, match="<memory>: "):
        vtcli.predict(b"junk", model=network)
