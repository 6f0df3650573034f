"""The evaluation protocol: the views of each video, how it is described, and which views of a
stored run to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtcli.errors import UsageError
from vtcli.runtime.words import plural
from vtcli.video.pipeline import Pipeline, ViewFusion
from vtcli.weights.checkpoint import ModelCard
from vtcli.weights.registry import Checkpoint

FUSED = {"prob": "probabilities", "logit": "logits", "sigmoid": "probabilities of each class alone"}


@dataclass(frozen=True)
class Protocol:
    """Clips x crops of a pipeline at a precision; `label_set` restricts a Kinetics-710 head."""

    pipeline: Pipeline
    clips: int
    crops: int
    precision: str
    label_set: str | None = None

    @property
    def views(self) -> int:
        """Number of views per video."""
        return self.clips * self.crops

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; two protocols with the same dict produce the same scores."""
        return {
            "clips": self.clips,
            "crops": self.crops,
            "precision": self.precision,
            "label_set": self.label_set,
            "pipeline": self.pipeline.to_dict(),
        }

    def describe(self) -> str:
        """The protocol as a phrase."""
        p = self.pipeline
        return (
            f"{plural(self.clips, 'clip')} x {plural(self.crops, 'crop')} of {p.frames} frames "
            f"({_spacing(p)}), {p.crop_size} pixels from a short side of {p.short_side}, "
            f"{describe_fusion(p.view_fusion)}, {self.precision}"
        )

    def differences(
        self,
        checkpoint: ModelCard | Checkpoint,
        dataset: str,
        split: str,
        default_split: str,
    ) -> str:
        """How this differs from what the reported metrics were measured with.

        "" if it does not, and for a model of which none are reported.
        """
        if checkpoint.top1 is None:
            return ""
        found = []
        if dataset != checkpoint.dataset:
            found.append(f"the model was trained on {checkpoint.dataset or 'an unknown dataset'}")
        elif split != default_split:
            found.append(f"the reported metrics are for the split '{default_split}'")
        if f"{self.clips}x{self.crops}" != checkpoint.views:
            found.append(f"the paper uses {checkpoint.views} views")
        if self.pipeline != checkpoint.pipeline:
            found.append("the pipeline is another checkpoint's")
        if self.label_set:
            found.append(f"a Kinetics-710 head is restricted to {self.label_set}")
        if self.precision != "fp32":
            found.append(f"{self.precision} instead of fp32")
        return "; ".join(found)


def describe_fusion(rule: ViewFusion) -> str:
    """How the views of a video are fused into one score."""
    how, what = rule.split("_")
    return f"{how} of {FUSED[what]}"


def _spacing(pipeline: Pipeline) -> str:
    if pipeline.sampling.startswith("uniform"):
        return "spread over the whole video"
    return "consecutive" if pipeline.stride == 1 else f"every {_ordinal(pipeline.stride)}"


def _ordinal(n: int) -> str:
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


@dataclass(frozen=True)
class Subset:
    """Some of the stored views of a run: their numbers, and a description of them."""

    numbers: tuple[int, ...]
    description: str


def choose_views(protocol: Protocol, clips: int, crops: int) -> Subset:
    """`clips` of the stored clips, evenly spaced, with the middle crop or all crops.

    Raises `UsageError` if fewer are stored.
    """
    if clips > protocol.clips or crops > protocol.crops:
        raise UsageError(
            f"the run holds {protocol.clips}x{protocol.crops} views, not {clips}x{crops}; run "
            f"vt eval with --views {clips}x{crops} first"
        )
    chosen_clips = [(2 * i + 1) * protocol.clips // (2 * clips) for i in range(clips)]
    order = protocol.pipeline.crop_order
    middle = 1 if order == "first_middle_last" else 2
    chosen_crops = range(protocol.crops) if crops == protocol.crops else [middle]
    numbers = [
        number
        for number, (clip, crop) in enumerate(_numbering(protocol))
        if clip in chosen_clips and crop in chosen_crops
    ]
    if len(numbers) == protocol.views:
        return Subset(tuple(numbers), "all stored views")
    which = "" if crops == protocol.crops else ", the middle crop"
    return Subset(
        tuple(numbers),
        f"{len(numbers)} of the {protocol.views} stored views: "
        f"{_format_clips(chosen_clips, protocol.clips)}{which}",
    )


def _numbering(protocol: Protocol) -> list[tuple[int, int]]:
    """(clip, crop) of each view, in the order of `plan_views`."""
    clips, crops = range(protocol.clips), range(protocol.crops)
    if protocol.pipeline.view_order == "clip_major":
        return [(clip, crop) for clip in clips for crop in crops]
    return [(clip, crop) for crop in crops for clip in clips]


def _format_clips(chosen: Sequence[int], total: int) -> str:
    if len(chosen) == total:
        return "all clips" if total > 1 else "the only clip"
    numbers = ", ".join(str(clip + 1) for clip in chosen)
    return f"clip{'s' if len(chosen) > 1 else ''} {numbers} of {total}"
