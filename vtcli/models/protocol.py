"""What the rooms above need of a loaded network, whatever its architecture.

Shape legend: B clips, T frames, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Card(Protocol):
    """What a network needs of its model card; the rest is for the rooms above."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        ...

    def with_classes(self, count: int, labels: tuple[str, ...], config: Any) -> Card:
        """The card of the same network with a new classifier."""
        ...

    def write(self, path: Any, tensors: Mapping[str, Tensor]) -> None:
        """Write weights and card to a file."""
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


@runtime_checkable
class StepwiseModel(Protocol):
    """A network that computes features of each time step alone before it mixes the steps.

    Overlapping windows of a video share these features. `frame_step` is the number of frames of a
    step, None where a configuration mixes frames earlier.
    """

    @property
    def frame_step(self) -> int | None: ...

    def step_features(self, step_B3THW: Tensor) -> Tensor:
        """Features [B,...] of one step; T is `frame_step`."""
        ...

    def forward_from_steps(self, features: Tensor) -> Tensor | Mapping[str, Tensor]:
        """What calling the network gives for clips whose steps have these features [B,T,...]."""
        ...
