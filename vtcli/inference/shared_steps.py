"""Features of time steps that overlapping windows share: computed once, used in each of them.

A step is a frame, or a tubelet, that the network looks at alone before it mixes the steps of a clip
(`StepwiseModel`). Windows share a step where they sample the same frames, so these are aligned.

Shape legend: B windows of a batch, T frames of a clip, S crop size, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from vtcli.inference.scoring import by_head, memory_errors, on_device, score_clips
from vtcli.models.protocol import StepwiseModel, VideoModel

if TYPE_CHECKING:
    from torch import Tensor

Step: TypeAlias = tuple[int, ...]
"""The numbers of its frames in the video."""

Item = TypeVar("Item")

MAX_BYTES = 1 << 30
"""Of features that are kept for later windows."""


def frame_step(net: object) -> int | None:
    """The frames of a step, where the network computes features of steps alone; else None."""
    return net.frame_step if isinstance(net, StepwiseModel) else None


def sampling_step(net: object) -> int | None:
    """The frames of a step by which windows are aligned: also for an exported graph, which does not
    give the features, so that it sees the same frames as the network.
    """
    return getattr(net, "sampling_step", None) or frame_step(net)


def _parts(row: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    return [tuple(row[at : at + size]) for at in range(0, len(row), size)]


def align_steps(frames_of: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """The frames [T] of each window, where steps of `size` frames repeat those of earlier windows.

    See `StepAligner`.
    """
    aligner = StepAligner(size)
    return [aligner.align(row) for row in frames_of]


class StepAligner:
    """Aligns the steps of windows that come one by one with those of earlier windows.

    A step takes the frames of the nearest earlier one if each of them is at most half the distance
    of two steps away: windows sample the same frames although their starts are rounded to frames.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._known: dict[int, list[Step]] = {}

    def align(self, row: Sequence[int]) -> list[int]:
        """The frames [T] of the next window, which samples `row`."""
        size, known = self.size, self._known
        reach = max(1, abs(row[size] - row[0]) // 2) if len(row) > size else 0
        steps = [_nearest(known, step, reach) for step in _parts(row, size)]
        for step in steps:
            same_start = known.setdefault(step[0], [])
            if step not in same_start:
                same_start.append(step)
        return [index for step in steps for index in step]

    def forget(self, before: int) -> None:
        """Forget the steps that begin before this frame."""
        self._known = {start: steps for start, steps in self._known.items() if start >= before}


def _nearest(known: Mapping[int, list[Step]], step: Step, reach: int) -> Step:
    """The known step next to this one, none of whose frames is more than `reach` away, or this."""
    found, least = step, float("inf")
    for start in range(step[0] - reach, step[0] + reach + 1):
        for other in known.get(start, ()):
            away = [abs(a - b) for a, b in zip(step, other, strict=False)]
            if len(other) == len(step) and max(away) <= reach and sum(away) < least:
                found, least = other, sum(away)
    return found


class SharedSteps:
    """Scores the windows of one video, in order; `frames_of` are the frames [T] of each.

    Features are kept until the last window that has the step, at most `max_bytes` of them; a step
    that is not kept is computed again. `computed` counts the steps that were, `scored` the windows.
    """

    def __init__(
        self, net: VideoModel, frames_of: Sequence[Sequence[int]], max_bytes: int = MAX_BYTES
    ) -> None:
        self.net, self.max_bytes = net, max_bytes
        self.size = frame_step(net) or 1
        self.steps_of = [_parts(row, self.size) for row in frames_of]
        self.last_window = {s: number for number, row in enumerate(self.steps_of) for s in row}
        self.kept: dict[Step, Tensor] = {}
        self.scored = self.computed = 0

    def score(
        self,
        clips: Iterable[Tensor],
        batch_size: int | None,
        on_scored: Callable[[Sequence[Mapping[str, Tensor]]], None] | None = None,
    ) -> dict[str, Tensor]:
        """Logits [V,K] per head of all windows, of which `clips` are the clips [3,T,S,S].

        Called back and raises as `score_clips` does.
        """
        return score_clips(self.net, clips, batch_size, self._score, on_scored)

    def _score(self, clips: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The logits [K] per head of the next windows."""
        import torch

        net = cast("StepwiseModel", self.net)
        rows = self.steps_of[self.scored : self.scored + len(clips)]
        new = {
            step: clip[:, at * self.size : (at + 1) * self.size]
            for row, clip in zip(rows, clips, strict=True)
            for at, step in enumerate(row)
            if step not in self.kept and len(step) == self.size
        }
        have = dict(self.kept)
        with memory_errors(len(clips)), torch.inference_mode():
            # As many frames at a time as the clips of this batch have: no more memory than they.
            for part in _parts(list(new), len(rows[0]) * len(clips)):
                batch = torch.stack([new[step] for step in part])
                features = net.step_features(on_device(self.net, batch))
                # Copies: a step that is kept must not keep its whole batch.
                have |= {s: f.clone() for s, f in zip(part, features, strict=True)}
            self.computed += len(new)
            steps = [torch.stack([have[s] for s in row if len(s) == self.size]) for row in rows]
            logits = by_head(self.net, net.forward_from_steps(torch.stack(steps)))
        self.scored += len(clips)
        self._keep(have, self.scored)
        return [{head: values[row] for head, values in logits.items()} for row in range(len(clips))]

    def _keep(self, have: Mapping[Step, Tensor], window: int) -> None:
        """Keep what windows from number `window` on have, within the bound."""
        wanted = {s: f for s, f in have.items() if self.last_window[s] >= window}
        one = next(iter(have.values()))
        most = self.max_bytes // (one.numel() * one.element_size())
        self.kept = dict(list(wanted.items())[max(0, len(wanted) - most) :])
