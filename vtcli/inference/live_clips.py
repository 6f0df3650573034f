"""The clips of a live source's windows, aligned and resized as those of a file.

Shape legend: T frames of a clip, H height, W width, S crop size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vtcli.inference.live_decode import Decoded
from vtcli.inference.shared_steps import StepAligner
from vtcli.inference.timeline import TimelinePredictor

if TYPE_CHECKING:
    from torch import Tensor


class LiveClips:
    """Makes the clips of one connection's windows as `TimelinePredictor` makes those of a file."""

    def __init__(self, timeliner: TimelinePredictor) -> None:
        self.pipeline = timeliner.predictor.pipeline
        self.first = 0
        """Frames of the source before this connection."""
        size = timeliner.aligned_step()
        self._aligner = StepAligner(size) if size else None
        self._held: dict[int, NDArray[np.uint8]] = {}
        self._resized: dict[int, Tensor] = {}
        recent = int(timeliner.window / timeliner.stride) + 3
        self._recent: deque[set[int]] = deque(maxlen=recent)

    def hold(self, part: Decoded) -> dict[int, NDArray[np.uint8]]:
        """The frames [H,W,3] of a window's clip, by their numbers in the connection."""
        held = self._held | part.frames
        # No later window begins before this one.
        self._held = {i: frame for i, frame in held.items() if i >= part.window.first}
        return {index: held[index] for index in part.row}

    def clip(self, sampled: Sequence[int], frames: Mapping[int, NDArray[np.uint8]]) -> Tensor:
        """The clip [3,T,S,S] of the next window, from what `hold` returned.

        Raises `InputError` for frames that are smaller than the crop.
        """
        import torch

        from vtcli.video.views import clip_tensors

        row = self._aligner.align(sampled) if self._aligner else list(sampled)
        for index in sorted(set(row) - self._resized.keys()):
            self._resized[index] = clip_tensors(frames[index][None], self.pipeline, [0], 1)[0]
        clip = torch.cat([self._resized[index] for index in row], dim=1)
        self._recent.append(set(row))
        kept: set[int] = set().union(*self._recent)
        self._resized = {index: f for index, f in self._resized.items() if index in kept}
        if self._aligner:
            self._aligner.forget(min(kept))
        return clip
