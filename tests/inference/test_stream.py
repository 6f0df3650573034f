"""The stream: batches across videos, scores that depend on nothing else, failures in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vtcli
from tests import tiny
from vtcli.errors import OutOfMemoryError
from vtcli.inference import scoring, stream
from vtcli.inference.batching import make_units
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import Failure, VideoPrediction

MODEL = "uniformerv2-nano"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Seven videos of different lengths, the fourth of which is damaged."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [str(tiny.video(folder / f"{n}.mp4", 20 + n, seed=n)) for n in range(7)]
    Path(paths[3]).write_bytes(b"no video")
    return paths


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(MODEL, precision="fp32", device="cpu")


def logits(outcome: VideoPrediction | Failure) -> torch.Tensor:
    assert isinstance(outcome, VideoPrediction), outcome.error
    return outcome.view_logits["action"]


def test_every_video_has_its_outcome_in_order(predictor: Predictor, videos: list[str]) -> None:
    outcomes = list(predictor.predict(videos))
    assert [outcome.path for outcome in outcomes] == videos
    assert [outcome.failed for outcome in outcomes] == [n == 3 for n in range(7)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_a_score_does_not_depend_on_which_videos_are_wanted(
    predictor: Predictor, videos: list[str], batch_size: int
) -> None:
    everything = dict(predictor.predict_part(videos, range(7), batch_size))
    for wanted in ({0}, {1, 6}, {0, 2, 3, 5}):
        some = dict(predictor.predict_part(videos, wanted, batch_size))
        assert set(some) == wanted
        for number in wanted - {3}:
            assert torch.equal(logits(some[number]), logits(everything[number]))


def test_a_batch_of_videos_gives_the_scores_of_each_alone(
    predictor: Predictor, videos: list[str]
) -> None:
    for path, outcome in zip(videos, predictor.predict(videos), strict=True):
        if not outcome.failed:
            (alone,) = predictor.predict([path])
            torch.testing.assert_close(logits(outcome), logits(alone), atol=1e-5, rtol=0)


def test_many_views_of_a_video_are_scored_in_their_order(videos: list[str]) -> None:
    with Predictor(MODEL, precision="fp32", views="4x3", batch_size=5) as many:
        (outcome,) = many.predict(videos[:1])
        (first, *_) = many.predict(videos[:2])
    assert logits(outcome).shape == (12, 8)
    torch.testing.assert_close(logits(first), logits(outcome), atol=1e-5, rtol=0)


def test_a_batch_that_does_not_fit_is_halved(
    videos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, sizes = scoring.forward, list[int]()

    def small_device(net: object, clips: torch.Tensor) -> object:
        sizes.append(len(clips))
        if len(clips) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return original(net, clips)  # type: ignore[arg-type]

    with Predictor(MODEL, precision="fp32") as whole:
        expected = [logits(o) for o in whole.predict(videos) if not o.failed]
        monkeypatch.setattr(scoring, "forward", small_device)
        found = [logits(o) for o in whole.predict(videos) if not o.failed]
        assert max(sizes) > 2
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        with pytest.raises(OutOfMemoryError, match="-b 4"):
            list(whole.predict_part(videos, range(7), 8))


@pytest.mark.parametrize(("name", "reason"), [("CRASH", "crashed"), ("HANG", "timeout")])
def test_a_decoder_that_dies_costs_one_video(
    videos: list[str], tmp_path: Path, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / f"{name}.mp4"
    bad.write_bytes(Path(videos[0]).read_bytes())
    monkeypatch.setenv("VT_TEST_DECODER_FAULTS", "1")
    paths = [*videos[:2], str(bad), *videos[4:]]
    with vtcli.Predictor(MODEL, precision="fp32", timeout=2.0) as one:
        outcomes = list(one.predict(paths))
    assert [outcome.failed for outcome in outcomes] == [path == str(bad) for path in paths]
    (failure,) = (outcome for outcome in outcomes if isinstance(outcome, Failure))
    assert failure.error.reason == reason
    assert failure.path == str(bad)


@pytest.mark.parametrize("views", ["1x1", "2x3"])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_without_order_every_score_is_the_same(
    videos: list[str], views: str, batch_size: int
) -> None:
    with Predictor(MODEL, precision="fp32", views=views) as one:
        expected = dict(one.predict_part(videos, range(7), batch_size))
        for wanted in (range(7), {1, 3, 6}):
            found = dict(one.predict_part(videos, wanted, batch_size, ordered=False))
            assert set(found) == set(wanted)
            for number in set(wanted) - {3}:
                assert torch.equal(logits(found[number]), logits(expected[number]))
            assert isinstance(found[3], Failure)


def test_without_order_a_hanging_video_holds_up_no_other(
    videos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "HANG.mp4"
    bad.write_bytes(Path(videos[0]).read_bytes())
    monkeypatch.setenv("VT_TEST_DECODER_FAULTS", "1")
    paths = [str(bad), *videos[:3], *videos[4:]] * 3
    with Predictor(MODEL, precision="fp32", timeout=4.0, workers=4, batch_size=4) as one:
        outcomes = list(one.predict(paths, ordered=False))
    assert sorted(outcome.path for outcome in outcomes) == sorted(paths)
    assert [outcome.failed for outcome in outcomes] == [False] * 18 + [True] * 3


def test_memory_is_bounded_where_one_place_of_the_batches_is_never_filled() -> None:
    units = make_units(100, 1, 4)
    waiting, most = stream._WaitingVideos({n: unit for unit in units for n in unit.samples}), 0
    for number in (n for n in range(100) if n % 4):
        waiting.add(number, iter([torch.zeros(1)]))
        most = max(most, len(waiting))
        while waiting.is_enough:
            ((clips, views),) = waiting.take()
            assert clips.keys() == views.keys() == {1, 2, 3}
    assert most == 8


def test_no_video_that_exists_loads_no_weights(tmp_path: Path) -> None:
    with Predictor(MODEL) as one:
        outcomes = list(one.predict([tmp_path / "a.mp4", tmp_path / "b.mp4"]))
        assert [outcome.error.reason for outcome in outcomes] == ["not_found"] * 2
        assert one._net is None
