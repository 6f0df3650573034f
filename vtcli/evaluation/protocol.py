"""The views a model is evaluated with, in words, and how that differs from what its paper does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtcli.errors import UsageError
from vtcli.video.pipeline import Pipeline, ViewFusion
from vtcli.weights.checkpoint import ModelCard
from vtcli.weights.registry import Checkpoint

AVERAGES = {"prob": "probabilities", "logit": "logits"}


@dataclass(frozen=True)
class Protocol:
    """Clips x crops of a pipeline, at a precision; `label_set` is a Kinetics-710 head's reading."""

    pipeline: Pipeline
    clips: int
    crops: int
    precision: str
    label_set: str | None = None

    @property
    def views(self) -> int:
        """How many views a video gives."""
        return self.clips * self.crops

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; two protocols with the same table give the same scores."""
        return {
            "clips": self.clips,
            "crops": self.crops,
            "precision": self.precision,
            "label_set": self.label_set,
            "pipeline": self.pipeline.to_dict(),
        }

    def in_words(self) -> str:
        """What is run, as a sentence without its end."""
        p = self.pipeline
        return (
            f"{counted(self.clips, 'clip')} x {counted(self.crops, 'crop')} of {p.frames} frames "
            f"({_reach(p)}), {p.crop_size} pixels from a short side of {p.short_side}, "
            f"{averaged(p.view_fusion)}, {self.precision}"
        )

    def differences(
        self,
        known: ModelCard | Checkpoint,
        own: Pipeline,
        dataset: str,
        split: str,
        default_split: str,
    ) -> str:
        """How this is not what the model's published figure was measured with; "" where it is."""
        found = []
        if dataset != known.dataset:
            found.append(f"the model is published for {known.dataset or 'no known dataset'}")
        elif split != default_split:
            found.append(f"the published figure is for the split '{default_split}'")
        if f"{self.clips}x{self.crops}" != known.views:
            found.append(f"the paper takes {known.views} views")
        if self.pipeline != own:
            found.append("the pipeline is another checkpoint's")
        if self.label_set:
            found.append(f"a Kinetics-710 head is read as {self.label_set}")
        if self.precision != "fp32":
            found.append(f"{self.precision} instead of fp32")
        return "; ".join(found)


def counted(n: int, noun: str) -> str:
    """1 clip, 2 clips."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def averaged(rule: ViewFusion) -> str:
    """How the views of a video become one score."""
    how, what = rule.split("_")
    return f"{'mean' if how == 'mean' else 'sum'} of {AVERAGES[what]}"


def _reach(pipeline: Pipeline) -> str:
    if pipeline.sampling.startswith("uniform"):
        return "spread over the whole video"
    return "consecutive" if pipeline.stride == 1 else f"every {_ordinal(pipeline.stride)}"


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


@dataclass(frozen=True)
class Subset:
    """Some of the views that a run holds: their numbers, and in words which they are."""

    numbers: tuple[int, ...]
    words: str


def choose_views(protocol: Protocol, clips: int, crops: int) -> Subset:
    """`clips` of the stored clips, spread evenly, and the middle crop or all of them.

    Raises `UsageError` where there are not that many.
    """
    if clips > protocol.clips or crops > protocol.crops:
        raise UsageError(
            f"the run holds {protocol.clips}x{protocol.crops} views, not {clips}x{crops}; run "
            "vt eval with these views"
        )
    kept_clips = [(2 * i + 1) * protocol.clips // (2 * clips) for i in range(clips)]
    order = protocol.pipeline.crop_order
    middle = 1 if order == "first_middle_last" else 2
    kept_crops = range(protocol.crops) if crops == protocol.crops else [middle]
    numbers = [
        number
        for number, (clip, crop) in enumerate(_numbering(protocol))
        if clip in kept_clips and crop in kept_crops
    ]
    if len(numbers) == protocol.views:
        return Subset(tuple(numbers), "all stored views")
    which = "" if crops == protocol.crops else ", the middle crop"
    return Subset(
        tuple(numbers),
        f"{len(numbers)} of the {protocol.views} stored views: "
        f"{_listed(kept_clips, protocol.clips)}{which}",
    )


def _numbering(protocol: Protocol) -> list[tuple[int, int]]:
    """(clip, crop) of each view, in the order `plan_views` gives them."""
    clips, crops = range(protocol.clips), range(protocol.crops)
    if protocol.pipeline.view_order == "clip_major":
        return [(clip, crop) for clip in clips for crop in crops]
    return [(clip, crop) for crop in crops for clip in clips]


def _listed(kept: Sequence[int], total: int) -> str:
    if len(kept) == total:
        return "all clips" if total > 1 else "the only clip"
    numbers = ", ".join(str(clip + 1) for clip in kept)
    return f"clip{'s' if len(kept) > 1 else ''} {numbers} of {total}"
