"""Networks compiled with `torch.compile`: faster where batches have one shape, after a minute or so
of compiling.

Logits differ from those of the network itself by rounding, so runs record that theirs are compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vtcli.errors import UsageError
from vtcli.inference.scoring import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from vtcli.models.protocol import VideoModel

BACKEND = "inductor"


def compiled(net: VideoModel) -> VideoModel:
    """The network with its forward pass compiled, by the first batch of each shape.

    Raises `UsageError` for an exported graph; the first call does so on a machine where nothing
    can be compiled.
    """
    from torch import nn

    if not isinstance(net, nn.Module):
        raise UsageError("an exported graph cannot be compiled; leave out --compile")
    return cast("VideoModel", CompiledNetwork(net))


class CompiledNetwork:
    """What the stream needs of a network; all but the forward pass is that of `net`."""

    def __init__(self, net: Any) -> None:
        import torch

        self.net = net
        self._forward = torch.compile(net, dynamic=False, backend=BACKEND)
        self._has_run = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    def __call__(self, clips_B3THW: Tensor) -> Tensor | Mapping[str, Tensor]:
        try:
            logits: Tensor | Mapping[str, Tensor] = self._forward(clips_B3THW)
        except Exception as error:
            if self._has_run or is_out_of_memory(error):
                raise
            cause = getattr(error, "inner_exception", error)
            reason = str(cause).strip().splitlines()[0].rstrip(".:")
            raise UsageError(
                f"the model cannot be compiled on this machine ({reason}); install g++ (for "
                "a GPU also Triton), or leave out --compile, and name another folder with -o for a "
                "run that was begun with it"
            ) from error
        self._has_run = True
        return logits
