"""What the rooms above need of a loaded network, whatever its architecture.

Shape legend: B clips, T frames, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Card(Protocol):
    """What a network needs of its model card; the rest is for the rooms above."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        ...


class VideoModel(Protocol):
    """A network prepared for inference: a normalized clip in, logits out.

    `card` describes the checkpoint (`vtcli.weights.checkpoint.ModelCard`), `labels` are the class
    names in the order of the logits, `dtype` is the type that clips must have.
    """

    config: Any
    card: Any
    labels: tuple[str, ...]
    dtype: torch.dtype

    def __call__(self, clips_B3THW: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Logits [B,K], or one such tensor per head."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        """All weights; the first one tells the device."""
        ...
