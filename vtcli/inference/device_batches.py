"""Batches on their way through a network: on a CPU one after the other, on a GPU two at a time.

A GPU takes the crops as uint8 from pinned memory, a quarter of the bytes, and normalizes them. They
are copied in a stream of their own while the batch before is computed, and logits are copied back
without being waited for: the caller reads those of a batch when the next one is under way. With
`PredictSettings.gpu_resize` whole frames are moved instead, and resized there.

Shape legend: B slots of a batch, T frames of a clip, S crop size, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

from vtcli.errors import UsageError
from vtcli.inference.scoring import fill_batch, heads_of, memory_errors, on_device, score_slots

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vtcli.inference.settings import PredictSettings
    from vtcli.models.protocol import VideoModel
    from vtcli.video.pipeline import Pipeline

Rows: TypeAlias = Mapping[int, Mapping[str, "Tensor"]]
"""Logits [K] per head by slot, fp32 on the CPU."""


class Running(Protocol):
    """A batch that was handed to the network."""

    def rows(self) -> Rows:
        """Its logits, waited for."""
        ...


class Batches(Protocol):
    """How batches go through a network; `lag` is how many the caller lets run at once beside the
    one whose logits it waits for.
    """

    lag: int

    def clips_of(self, clips: Iterator[Tensor]) -> Iterator[Tensor]:
        """The clips [3,T,S,S] of a video in the form that `submit` takes."""
        ...

    def submit(self, clips: Mapping[int, Tensor], slots: int | None) -> Running:
        """Begin with a batch; parameters and errors are those of `score_slots`."""
        ...


def batches_for(net: VideoModel, pipeline: Pipeline) -> Batches:
    """How this network's device takes batches."""
    on_gpu = next(net.parameters()).device.type == "cuda"
    return GpuBatches(net, pipeline) if on_gpu else CpuBatches(net)


def resize_device(settings: PredictSettings) -> str | None:
    """Where frames are resized, None for the CPU; raises `UsageError` without a GPU for it."""
    from vtcli.runtime.device import resolve_device

    if not settings.gpu_resize:
        return None
    device = resolve_device(settings.device)
    if device.type != "cuda":
        raise UsageError(f"--gpu-resize is for NVIDIA and AMD GPUs, not {device}; leave it out")
    return str(device)


class CpuBatches:
    """One batch at a time: `submit` returns when it is computed."""

    lag = 0

    def __init__(self, net: VideoModel) -> None:
        self.net = net

    def clips_of(self, clips: Iterator[Tensor]) -> Iterator[Tensor]:
        """See `Batches`."""
        return clips

    def submit(self, clips: Mapping[int, Tensor], slots: int | None) -> Running:
        """See `Batches`."""
        return _Computed(score_slots(self.net, clips, slots))


class _Computed:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def rows(self) -> Rows:
        return self._rows


class GpuBatches:
    """See the top of the file. On another device it does the same without streams, for tests."""

    lag = 1

    def __init__(self, net: VideoModel, pipeline: Pipeline) -> None:
        import torch

        self.net, self.pipeline = net, pipeline
        self.device: torch.device = next(net.parameters()).device
        self.is_cuda = self.device.type == "cuda"
        self.copies = torch.cuda.Stream(self.device) if self.is_cuda else None

    def clips_of(self, clips: Iterator[Tensor]) -> Iterator[Tensor]:
        """The crops as they are resized: uint8, unless the pipeline normalizes them first."""
        from vtcli.video.views import ViewClips

        return clips.crops() if isinstance(clips, ViewClips) else clips

    def submit(self, clips: Mapping[int, Tensor], slots: int | None) -> Running:
        """See `Batches`."""
        import torch

        with memory_errors(slots or len(clips)), torch.inference_mode():
            batch, row_of = fill_batch(clips, slots, pinned=self.is_cuda)
            logits = heads_of(self.net, self.net(self._moved(batch)))
            return _Copied({h: v.float() for h, v in logits.items()}, row_of, self.device)

    def _moved(self, batch_B3TSS: Tensor) -> Tensor:
        """The batch on the device, as the network takes it."""
        import torch

        if self.copies is None or batch_B3TSS.device.type == "cuda":  # resized there
            return self._normalized(batch_B3TSS)
        with torch.cuda.stream(self.copies):
            moved = self._normalized(batch_B3TSS.to(self.device, non_blocking=True))
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.copies)
        moved.record_stream(computing)  # its memory is not reused before the network has read it
        return moved

    def _normalized(self, batch_B3TSS: Tensor) -> Tensor:
        import torch

        from vtcli.video.transforms import normalize_planes

        p = self.pipeline
        if batch_B3TSS.dtype == torch.uint8:
            batch_B3TSS = normalize_planes(batch_B3TSS.float(), p.normalize, p.mean, p.std)
        return on_device(self.net, batch_B3TSS)


class _Copied:
    """Logits [B,K] per head that are being copied to the CPU."""

    def __init__(
        self, logits: Mapping[str, Tensor], row_of: Mapping[int, int], device: torch.device
    ) -> None:
        import torch

        self.row_of, self.copied = row_of, None
        if device.type != "cuda":
            self.host = dict(logits)
            return
        self.host = {
            head: torch.empty_like(values, device="cpu", pin_memory=True).copy_(
                values, non_blocking=True
            )
            for head, values in logits.items()
        }
        self.copied = torch.cuda.Event()
        self.copied.record(torch.cuda.current_stream(device))

    def rows(self) -> Rows:
        if self.copied is not None:
            self.copied.synchronize()
        # Copies: a row that is kept must not keep the logits, in pinned memory, of its batch.
        return {
            slot: {head: values[row].clone() for head, values in self.host.items()}
            for slot, row in self.row_of.items()
        }
