"""Videos that arrive one by one have the scores that they have in any other run."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from tests import tiny
from vtcli.errors import OutOfMemoryError, VideoDecodeError
from vtcli.inference import device_batches
from vtcli.inference.gather import VideoScores
from vtcli.inference.online import OnlineStream, Scores
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import VideoPrediction

MODEL = "uniformerv2-nano.motion8"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [tiny.video(folder / f"{seed}.mp4", seed=seed) for seed in range(5)]


def logits_of(future: Future[Scores]) -> torch.Tensor:
    scores = future.result(60)
    assert isinstance(scores, VideoScores)
    return scores.logits["action"]


@pytest.mark.parametrize("views", ["1x1", "3x1"])
def test_a_video_alone_is_scored_as_by_predict(views: str, clips: list[Path]) -> None:
    with Predictor(MODEL, views=views, precision="fp32", workers=0) as predictor:
        (expected,) = predictor.predict(clips[:1])
        assert isinstance(expected, VideoPrediction)
        online = OnlineStream(predictor)
        assert torch.equal(logits_of(online.submit(str(clips[0]))), expected.view_logits["action"])
        online.close()


def test_those_that_wait_share_a_batch_and_keep_their_scores(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    go = threading.Event()
    score_slots = device_batches.score_slots

    def wait_and_score(*args: object) -> object:
        assert go.wait(60)
        return score_slots(*args)  # type: ignore[arg-type]

    with Predictor(MODEL, batch_size=4, precision="fp32", workers=0) as predictor:
        alone = OnlineStream(predictor)
        expected = [logits_of(alone.submit(str(clip))) for clip in clips]
        alone.close()
        monkeypatch.setattr(device_batches, "score_slots", wait_and_score)
        online = OnlineStream(predictor, on_batch=sizes.append)
        futures = [online.submit(str(clip)) for clip in clips]
        while online._ready.qsize() < len(clips) - len(futures[:1]):
            assert not go.wait(0.01)
        go.set()
        for future, own in zip(futures, expected, strict=True):
            assert logits_of(future) == pytest.approx(own, abs=1e-6)
        online.close()
    assert sizes == [1, 4]


def test_one_that_fails_costs_no_other(clips: list[Path], tmp_path: Path) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"not a video")
    with Predictor(MODEL, workers=0) as predictor:
        online = OnlineStream(predictor, max_seconds=1.0)
        long = tiny.video(tmp_path / "long.mp4", frames=50)
        futures = [online.submit(str(path)) for path in (noise, clips[0], long)]
        errors = [futures[0].result(60), futures[2].result(60)]
        assert [e.reason for e in errors if isinstance(e, VideoDecodeError)] == [
            "not_video",
            "limit",
        ]
        assert logits_of(futures[1]).shape == (1, 8)
        online.close()


def test_an_error_of_the_network_is_that_of_its_batch_alone(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> object:
        raise OutOfMemoryError("one view does not fit")

    with Predictor(MODEL, workers=0) as predictor:
        online = OnlineStream(predictor)
        with monkeypatch.context() as context:
            context.setattr(device_batches, "score_slots", fail)
            with pytest.raises(OutOfMemoryError):
                online.submit(str(clips[0])).result(60)
        assert logits_of(online.submit(str(clips[0]))).shape == (1, 8)
        online.close()
