"""Frames, bytes and tables get the predictions that the same videos get as files."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vtcli
from tests import tiny
from vtcli.errors import UsageError, VideoDecodeError
from vtcli.inference.results import Failure, PredictionResult
from vtcli.video.decode import read_frames

MODEL = "uniformerv2-nano"


@pytest.fixture(scope="module")
def predictor() -> Any:
    with vtcli.Predictor(MODEL, topk=8, precision="fp32", workers=1) as made:
        yield made


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.video(tmp_path_factory.mktemp("arrays") / "clip.mp4")


def logits(outcome: Any) -> torch.Tensor:
    return next(iter(outcome.view_logits.values()))


def test_bytes_and_frames_have_the_scores_of_the_file(predictor: Any, clip: Path) -> None:
    (of_file,) = predictor.predict([clip])
    of_bytes = predictor.predict_bytes(clip.read_bytes(), "name.mp4")
    of_frames = predictor.predict_frames(read_frames(clip, range(20)), 25.0)
    assert of_bytes.path == "name.mp4"
    assert torch.equal(logits(of_bytes), logits(of_file))
    torch.testing.assert_close(logits(of_frames), logits(of_file), atol=1e-5, rtol=0)
    assert of_frames.info.duration == 0.8


def test_features_are_what_the_network_computes(predictor: Any, clip: Path) -> None:
    from vtcli.video.pipeline import plan_views
    from vtcli.video.views import clip_tensors

    (view,) = plan_views(predictor.pipeline, 20, 25.0, 1, 1)
    frames = read_frames(clip, view.frame_indices)
    batch = clip_tensors(frames, predictor.pipeline, [0], 1)
    with torch.inference_mode():
        expected = predictor.net.features(batch)
    torch.testing.assert_close(predictor.embed(clip), expected, atol=1e-5, rtol=0)


def test_wrong_types_are_a_sentence(predictor: Any, clip: Path) -> None:
    frames = np.zeros((20, 48, 64, 3), np.uint8)
    for call, said in (
        (lambda: predictor.predict(str(clip)), "a list of paths"),
        (lambda: predictor.predict_bytes(str(clip)), "not str"),
        (lambda: predictor.predict_frames(frames.astype(float), 25.0), "uint8 .* not float64"),
        (lambda: predictor.predict_frames(frames[0], 25.0), "shape"),
        (lambda: predictor.predict_frames(frames, "25"), "fps must be a number"),
        (lambda: predictor.embed(7), "path"),
        (lambda: predictor([clip]), "mapping"),
    ):
        with pytest.raises(TypeError, match=said):
            call()
    with pytest.raises(UsageError, match="greater than 0"):
        predictor.predict_frames(frames, 0)
    with pytest.raises(UsageError, match="path or bytes; it has name"):
        predictor({"name": ["x"]})
    with pytest.raises(VideoDecodeError, match=r"^junk\.mp4: "):
        predictor.predict_bytes(b"junk", "junk.mp4")


@pytest.mark.parametrize("column", ["path", "bytes"])
def test_a_batch_of_a_table_gets_columns_and_reasons(
    predictor: Any, clip: Path, column: str, tmp_path: Path
) -> None:
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"junk")
    cells = [str(clip), str(junk)]
    if column == "bytes":
        cells = [Path(cell).read_bytes() for cell in cells]
    (expected,) = predictor.predict([clip])
    got = pickle.loads(pickle.dumps(predictor))({column: np.array(cells, object), "id": [1, 2]})
    assert set(got) == {"id", "label", "score", "reason", "error"} | ({column} - {"bytes"})
    assert list(got["label"]) == [expected.predictions[0].label, None]
    assert got["score"][0] == pytest.approx(expected.predictions[0].score, abs=1e-5)
    assert list(got["reason"]) == [None, "not_video"]


def test_threads_share_a_predictor(predictor: Any, clip: Path) -> None:
    (expected,) = predictor.predict([clip])
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.extend(predictor.predict([clip]))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(logits(one), logits(expected)) for one in found] == [True] * 3


def test_results_are_tables(predictor: Any, clip: Path) -> None:
    (outcome,) = predictor.predict([clip])
    failure = Failure("<b>.mp4", VideoDecodeError("<b>.mp4", "not_video", "is <i>text"))
    result = PredictionResult(predictor.header, [outcome], [failure])
    frame = result.to_pandas()
    assert list(frame["label"][:8]) == [p.label for p in outcome.predictions]
    assert list(frame["reason"])[8] == "not_video"
    for html in (result._repr_html_(), failure._repr_html_()):
        assert "&lt;b&gt;.mp4" in html
        assert "<i>" not in html
    assert outcome.predictions[0].label in outcome._repr_html_()


def test_preprocess_gives_the_clip_that_is_scored(predictor: Any, clip: Path) -> None:
    frames = read_frames(clip, range(20))
    clip_3TSS = vtcli.preprocess(frames, predictor.model)
    with torch.inference_mode():
        actual = predictor.net(clip_3TSS[None])
    torch.testing.assert_close(actual, logits(predictor.predict_frames(frames, 25.0)))
    with pytest.raises(UsageError, match="give the frame rate as fps"):
        vtcli.preprocess(frames, "videoswin-t.k400-in1k-32f-tv")
