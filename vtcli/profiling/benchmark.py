"""How long a forward pass takes, how much memory, and how near it comes to the machine's limit.

The limit is the machine's own matrix rate: the best of a 2048^3 product and the largest one of the
model, in the same type, measured just before the model.

Shapes: a clip is [B,3,T,H,W]; a product is [M,K] x [K,N].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch

from vtcli.errors import OutOfMemoryError, UsageError
from vtcli.inference.scoring import is_out_of_memory
from vtcli.models.build import clip_shape
from vtcli.profiling.flops import Cost, Product, by_block
from vtcli.profiling.memory import PeakMemory, available_bytes
from vtcli.runtime.device import precision_name

# A measurement is repeated this often, or for so many seconds where that is more.
MIN_RUNS, MAX_RUNS, RUN_SECONDS = 5, 200, 2.0
BLOCK_RUNS = 3
RATE_SIZE = 2048
RATE_ROUNDS, RATE_SECONDS = 5, 0.02


@dataclass(frozen=True)
class Timing:
    """One model at one batch size and precision. Times are seconds of a forward pass.

    peak_bytes: memory that weights, clip and activations take together at the most; None where the
        system does not tell.
    peak_matmul_macs_per_s: MACs per second of a plain matrix product here; the shares of it are counted by
        MACs in published form (None where there is none) and as executed.
    """

    device: str
    precision: str
    batch_size: int
    compiled: bool
    runs: int
    median: float
    p95: float
    peak_bytes: int | None
    peak_matmul_macs_per_s: float
    mfu: float | None
    hfu: float
    block_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def clips_per_second(self) -> float:
        """Throughput in views."""
        return self.batch_size / self.median

    def to_dict(self, views: int) -> dict[str, Any]:
        """JSON-able; `views` is how many the protocol takes of a video."""
        speed = {
            "clips_per_second": self.clips_per_second,
            "videos_per_second": self.clips_per_second / views,
        }
        return {**asdict(self), **speed}


class Benchmark:
    """One model in one precision, timed at any number of batch sizes.

    Raises `UsageError` where `compiled` is asked for and this machine cannot compile.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], Any],
        cost: Cost,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        self.name, self.cost, self.device, self.compiled = name, cost, device, compiled
        self.memory = PeakMemory(device)
        self.net = build()
        self.run = torch.compile(self.net) if compiled else self.net
        self.dtype: torch.dtype = self.net.dtype
        self.bytes_per_clip: int | None = None

    def time(self, batch_size: int, blocks: bool = False) -> Timing:
        """Latency, memory and share of the matrix rate.

        Raises `OutOfMemoryError` naming the largest batch that fits, found by halving.
        """
        with torch.inference_mode():
            clip = self._warm_up(batch_size)
            rate = peak_matmul_macs_per_s(self._products(batch_size), self.device, self.dtype)
            self.memory.reset()
            seconds = repeat(partial(self.run, clip), self.device)
            peak = self.memory.peak()
            spent = self._by_block(clip) if blocks else {}
        took = median(seconds)
        published = self.cost.published_macs
        return Timing(
            device=str(self.device),
            precision=precision_name(self.dtype),
            batch_size=batch_size,
            compiled=self.compiled,
            runs=len(seconds),
            median=took,
            p95=sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1],
            peak_bytes=peak,
            peak_matmul_macs_per_s=rate,
            mfu=published and published * batch_size / took / rate,
            hfu=self.cost.executed_macs * batch_size / took / rate,
            block_seconds=spent,
        )

    def _clip(self, batch_size: int) -> torch.Tensor:
        shape = (batch_size, *clip_shape(self.net.config))
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def _products(self, batch_size: int) -> list[Product]:
        rows, inner, columns = self.cost.product
        return [(RATE_SIZE, RATE_SIZE, RATE_SIZE), (rows * batch_size, inner, columns)]

    def _by_block(self, clip: torch.Tensor) -> dict[str, float]:
        """Median seconds of every block; the network runs as it is written, never compiled."""
        runs = [
            by_block(self.net, lambda: self.net(clip), partial(clock, self.device))
            for _ in range(BLOCK_RUNS)
        ]
        return {name: median(run[name] for run in runs) for name in runs[0]}

    def _warm_up(self, batch_size: int) -> torch.Tensor:
        """A clip with which the network has run once."""
        try:
            self._check_room(batch_size)
        except OutOfMemoryError as error:
            raise self._too_large(batch_size, self._check_room) from error
        try:
            return self._first_run(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, when the failed run's tensors have gone with its exception.
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
                f"{self.name} cannot be compiled here ({reason}); leave out --compile"
            ) from error
        return clip

    def _check_room(self, batch_size: int) -> None:
        """On a CPU a process that takes too much is killed without a word: so ask beforehand.

        What a batch needs is reckoned from one clip. Raises `OutOfMemoryError`.
        """
        if self.device.type != "cpu" or batch_size == 1:
            return
        if self.bytes_per_clip is None:
            before = self.memory.reset()
            clip = self._clip(1)
            self.net(clip)
            peak = self.memory.peak()
            grown = 0 if before is None or peak is None else peak - before
            # At least the clip itself, where the rest found room in memory already taken.
            self.bytes_per_clip = max(grown, clip.numel() * clip.element_size())
        room = available_bytes()
        if room is not None and batch_size * self.bytes_per_clip > room:
            raise OutOfMemoryError(f"{batch_size} clips need more than {room} bytes")

    def _too_large(self, batch_size: int, attempt: Callable[[int], object]) -> OutOfMemoryError:
        """The sentence for a batch that does not fit, after halving it until `attempt` accepts."""
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
            f"{what} does not fit into the memory of {self.device}, and no smaller one does; "
            "take a smaller model or another device"
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
    """The time in seconds, when all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return perf_counter()


def seconds_of(run: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds of one of `times` calls in a row."""
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
    products: list[Product], device: torch.device, dtype: torch.dtype
) -> float:
    """MACs per second of the fastest of these matrix products, each at its best."""
    rates = []
    for m, k, n in products:
        left, right = (torch.randn(shape, device=device, dtype=dtype) for shape in ((m, k), (k, n)))
        multiply = partial(torch.matmul, left, right)
        multiply()
        # So many at once that starting them is no part of the time.
        times = max(1, math.ceil(RATE_SECONDS / seconds_of(multiply, device)))
        best = min(seconds_of(multiply, device, times) for _ in range(RATE_ROUNDS))
        rates.append(m * k * n / best)
    return max(rates)
