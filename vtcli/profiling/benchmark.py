"""Latency, peak memory and model FLOPs utilization of a forward pass.

Utilization is relative to a measured peak: the MACs per second of the faster of a 2048^3 matrix
product and the model's largest one, in the same dtype on the same device, measured just before the
model. MFU counts MACs as papers do, HFU as executed (PaLM, appendix B, arXiv:2204.02311).

Shapes: a clip is [B,3,T,H,W]; a matrix product is [M,K] x [K,N].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from vtcli.errors import OutOfMemoryError, UsageError
from vtcli.inference.scoring import is_out_of_memory
from vtcli.models.build import clip_shape
from vtcli.profiling.flops import Cost, MatmulShape, by_block
from vtcli.profiling.memory import PeakMemory, available_bytes
from vtcli.runtime.device import precision_name

if TYPE_CHECKING:
    from vtcli.models.protocol import VideoModel

# A measurement is repeated at least MIN_RUNS times, then until RUN_SECONDS or MAX_RUNS is reached.
MIN_RUNS, MAX_RUNS, RUN_SECONDS = 5, 200, 2.0
BLOCK_RUNS = 3
MATMUL_SIZE = 2048
MATMUL_ROUNDS, MATMUL_SECONDS = 5, 0.02


@dataclass(frozen=True)
class Timing:
    """One model at one batch size and precision. Times are seconds of a forward pass.

    peak_bytes: peak memory of weights, clip and activations together; None where the system does
        not report it.
    peak_matmul_macs_per_s: the measured peak that `mfu` and `hfu` are relative to.
    mfu: None where the architecture does not state how papers count its MACs.
    block_seconds: block name -> median seconds; empty where blocks were not timed.
    """

    device: str
    precision: str
    batch_size: int
    compiled: bool
    runs: int
    latency_median: float
    latency_p95: float
    peak_bytes: int | None
    peak_matmul_macs_per_s: float
    mfu: float | None
    hfu: float
    block_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def clips_per_second(self) -> float:
        """Throughput in clips (views)."""
        return self.batch_size / self.latency_median

    def to_dict(self, views: int) -> dict[str, Any]:
        """JSON-able; `views` is the number of views per video of the protocol."""
        throughput = {
            "clips_per_second": self.clips_per_second,
            "videos_per_second": self.clips_per_second / views,
        }
        return {**asdict(self), **throughput}


class Benchmark:
    """One model in one precision, timed at any number of batch sizes.

    `build` returns the model on `device`; `compiled` runs it through `torch.compile`.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], VideoModel],
        cost: Cost,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        self.name, self.cost, self.device, self.compiled = name, cost, device, compiled
        self.memory = PeakMemory(device)
        self.model = build()
        self.run = torch.compile(self.model) if compiled else self.model
        self.dtype = self.model.dtype
        self.bytes_per_clip: int | None = None

    def time(self, batch_size: int, blocks: bool = False) -> Timing:
        """Latency, peak memory and utilization at one batch size; `blocks` times every block too.

        Raises `OutOfMemoryError` naming the largest batch size that fits, found by halving, and
        `UsageError` where the model is to be compiled and cannot be on this machine.
        """
        with torch.inference_mode():
            clip = self._warm_up(batch_size)
            peak_rate = peak_matmul_macs_per_s(self._matmuls(batch_size), self.device, self.dtype)
            self.memory.reset()
            seconds = repeat(partial(self.run, clip), self.device)
            peak_bytes = self.memory.peak()
            block_seconds = self._by_block(clip) if blocks else {}
        latency = median(seconds)
        macs_paper = self.cost.macs_paper
        return Timing(
            device=str(self.device),
            precision=precision_name(self.dtype),
            batch_size=batch_size,
            compiled=self.compiled,
            runs=len(seconds),
            latency_median=latency,
            latency_p95=sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1],
            peak_bytes=peak_bytes,
            peak_matmul_macs_per_s=peak_rate,
            mfu=macs_paper and macs_paper * batch_size / latency / peak_rate,
            hfu=self.cost.macs_executed * batch_size / latency / peak_rate,
            block_seconds=block_seconds,
        )

    def _clip(self, batch_size: int) -> torch.Tensor:
        shape = (batch_size, *clip_shape(self.model.config))
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def _matmuls(self, batch_size: int) -> list[MatmulShape]:
        m, k, n = self.cost.largest_matmul
        return [(MATMUL_SIZE, MATMUL_SIZE, MATMUL_SIZE), (m * batch_size, k, n)]

    def _by_block(self, clip: torch.Tensor) -> dict[str, float]:
        """Median seconds of every block, in eager mode even where the model is compiled."""
        module = cast("nn.Module", self.model)
        runs = [
            by_block(module, partial(module, clip), partial(clock, self.device))
            for _ in range(BLOCK_RUNS)
        ]
        return {name: median(run[name] for run in runs) for name in runs[0]}

    def _warm_up(self, batch_size: int) -> torch.Tensor:
        """A clip that the model has been run on once."""
        try:
            self._check_memory(batch_size)
        except OutOfMemoryError as error:
            raise self._too_large(batch_size, self._check_memory) from error
        try:
            return self._first_run(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the tensors of the failed run are freed with its exception.
        raise self._too_large(batch_size, self._first_run)

    def _first_run(self, batch_size: int) -> torch.Tensor:
        clip = self._clip(batch_size)
        try:
            self.run(clip)
        except Exception as error:
            if not self.compiled or is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                f"{self.name} cannot be compiled on this machine ({reason}); omit --compile"
            ) from error
        return clip

    def _check_memory(self, batch_size: int) -> None:
        """Raise `OutOfMemoryError` for a batch that the CPU's memory cannot hold.

        Linux kills a process that allocates too much, without an error: so the need is estimated
        from a single clip beforehand.
        """
        if self.device.type != "cpu" or batch_size == 1:
            return
        if self.bytes_per_clip is None:
            before = self.memory.reset()
            clip = self._clip(1)
            self.model(clip)
            peak = self.memory.peak()
            grown = 0 if before is None or peak is None else peak - before
            # At least the clip itself: the rest may have fit into memory that was already held.
            self.bytes_per_clip = max(grown, clip.numel() * clip.element_size())
        available = available_bytes()
        if available is not None and batch_size * self.bytes_per_clip > available:
            raise OutOfMemoryError(f"{batch_size} clips need more than {available} bytes")

    def _too_large(self, batch_size: int, attempt: Callable[[int], object]) -> OutOfMemoryError:
        """The error for a batch that does not fit, with the largest half of it that does."""
        what = f"{self.name}: a batch of {batch_size} in {precision_name(self.dtype)}"
        smaller = batch_size
        while smaller > 1:
            smaller //= 2
            if self._fits(smaller, attempt):
                return OutOfMemoryError(
                    f"{what} does not fit into the memory of {self.device}; the largest that "
                    f"does, by halving, is -b {smaller}"
                )
        return OutOfMemoryError(
            f"{what} does not fit into the memory of {self.device}, nor does a smaller one; "
            "use a smaller model or another device"
        )

    def _fits(self, batch_size: int, attempt: Callable[[int], object]) -> bool:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            attempt(batch_size)
        except (RuntimeError, MemoryError, OutOfMemoryError) as error:
            if not isinstance(error, OutOfMemoryError) and not is_out_of_memory(error):
                raise
            return False
        return True


def clock(device: torch.device) -> float:
    """The time in seconds, after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return perf_counter()


def seconds_of(run: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Mean seconds of a call, over `times` calls in a row."""
    start = clock(device)
    for _ in range(times):
        run()
    return (clock(device) - start) / times


def repeat(run: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each of several calls."""
    seconds: list[float] = []
    while len(seconds) < MIN_RUNS or (sum(seconds) < RUN_SECONDS and len(seconds) < MAX_RUNS):
        seconds.append(seconds_of(run, device))
    return seconds


def peak_matmul_macs_per_s(
    shapes: list[MatmulShape], device: torch.device, dtype: torch.dtype
) -> float:
    """MACs per second of the fastest of these matrix products, each at its best round."""
    rates = []
    for m, k, n in shapes:
        left, right = (torch.randn(shape, device=device, dtype=dtype) for shape in ((m, k), (k, n)))
        multiply = partial(torch.matmul, left, right)
        multiply()
        # Enough calls in a row that launching them does not count.
        times = max(1, math.ceil(MATMUL_SECONDS / seconds_of(multiply, device)))
        best = min(seconds_of(multiply, device, times) for _ in range(MATMUL_ROUNDS))
        rates.append(m * k * n / best)
    return max(rates)
