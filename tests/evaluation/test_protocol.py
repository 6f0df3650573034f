"""The protocol is described, with every difference from the published one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtcli.errors import UsageError
from vtcli.evaluation.protocol import Protocol, choose_views
from vtcli.video.pipeline import plan_views
from vtcli.weights.registry import load_registry

ENTRY = load_registry().find("uniformerv2-b.k400-8f")
SWIN = load_registry().find("videoswin-t.k400-in1k-32f")
PAPER = Protocol(ENTRY.pipeline, 4, 3, "fp32")


def test_a_protocol_is_described() -> None:
    assert PAPER.describe() == (
        "4 clips x 3 crops of 8 frames (spread over the whole video), 224 pixels from a short "
        "side of 224, sum of probabilities, fp32"
    )
    assert "32 frames (every 2nd)" in Protocol(SWIN.pipeline, 1, 1, "bf16").describe()


def test_the_published_protocol_has_no_differences() -> None:
    assert PAPER.differences(ENTRY, "k400", "validation", "validation") == ""


@pytest.mark.parametrize(
    ("change", "dataset", "split", "words"),
    [
        ({"clips": 1}, "k400", "validation", "the paper uses 4x3 views"),
        ({"precision": "bf16"}, "k400", "validation", "bf16 instead of fp32"),
        ({"pipeline": SWIN.pipeline}, "k400", "validation", "another checkpoint's"),
        ({"label_set": "k400"}, "k400", "validation", "restricted to k400"),
        ({}, "ssv2", "validation", "trained on k400"),
        ({}, "k400", "train", "are for the split 'validation'"),
    ],
)
def test_every_difference_is_named(
    change: dict[str, object], dataset: str, split: str, words: str
) -> None:
    protocol = replace(PAPER, **change)  # type: ignore[arg-type]
    assert words in protocol.differences(ENTRY, dataset, split, "validation")


@pytest.mark.parametrize("entry", [ENTRY, SWIN], ids=["clip-major", "crop-major"])
@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (2, 3), (4, 1), (4, 3)])
def test_a_subset_has_the_requested_clips_and_crops(entry: object, clips: int, crops: int) -> None:
    pipeline = entry.pipeline  # type: ignore[attr-defined]
    subset = choose_views(Protocol(pipeline, 4, 3, "fp32"), clips, crops)
    views = [plan_views(pipeline, 300, 30.0, 4, 3)[number] for number in subset.numbers]
    assert len(views) == clips * crops
    assert len({view.clip for view in views}) == clips
    assert len({view.crop for view in views}) == crops
    if crops == 1:
        middle = 1 if pipeline.crop_order == "first_middle_last" else 2
        assert {view.crop for view in views} == {middle}


def test_a_subset_is_described() -> None:
    assert choose_views(PAPER, 2, 1).description == (
        "2 of the 12 stored views: clips 2, 4 of 4, the middle crop"
    )
    assert choose_views(PAPER, 4, 3).description == "all stored views"
    with pytest.raises(UsageError, match="holds 4x3 views, not 5x3"):
        choose_views(PAPER, 5, 3)
