"""Windows of Video Swin (arXiv 2106.13230, section 3.2, figure 2): which token is where in which
window, which pairs of tokens are masked after the cyclic shift, and relative positions.

Everything here depends on sizes alone, so the latest results are cached.

Shapes: T,H,W tokens along time, height, width, M tokens of all clips, W windows of N slots, P slots
and R rows of a chunk of windows, K kinds of windows, H heads, A = 3 axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import product
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Size = tuple[int, ...]  # along time, height, width
Part = tuple[range, ...]  # slots along time, height, width
R = TypeVar("R")

# Upstream adds -100, not -inf, to the score of tokens that only the cyclic shift made neighbors.
MASKED = -100.0


def cached(make: Callable[..., R]) -> Callable[..., R]:
    """`make` with its latest results cached, except while tracing, when tensors hold no values."""
    cached_make = lru_cache(maxsize=64)(make)

    @wraps(make)
    def call(*args: Any) -> R:
        tracing = torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor
        return make(*args) if tracing else cached_make(*args)

    return call


@dataclass(frozen=True)
class Cut:
    """How a grid of tokens is cut into windows.

    full: the configured window; window, shift: slots of the windows along time, height and width,
    and by how many they are shifted. The last window along a shifted axis joins both ends of the
    grid, which must not attend to each other. Along time it is always split into two windows, along
    height and width only with `in_space`; otherwise a mask keeps its ends apart.
    max_rows: about the largest number of rows of a chunk; None for a single chunk.
    align: the rows of a window are a multiple of this; those after its slots are unused.
    """

    full: Size
    window: Size
    shift: Size
    in_space: bool
    max_rows: int | None
    align: int

    @property
    def is_box(self) -> bool:
        """Whether the slots of a window have the offsets that they have in the configured one.

        So it is where height and width are the configured ones, because time varies slowest. Then
        parts of a window have the same position bias if they have the same size.
        """
        return self.window[1:] == self.full[1:]

    @property
    def split_by(self) -> Size:
        """The shift along the axes where windows are split."""
        return self.shift if self.in_space else (self.shift[0], 0, 0)

    @property
    def mask_by(self) -> Size:
        """The shift along the axes where a mask is needed."""
        return (0, 0, 0) if self.in_space else (0, *self.shift[1:])


@dataclass(frozen=True)
class Windows:
    """W windows of one size, and which of their slots must not attend to each other.

    part: which slots of a window these are; rows: as many as a window has slots, and unused ones;
    kinds [W]: the kind of each window; masks [K,N,N]: added to the attention scores in windows of
    each kind; None if not needed.
    """

    part: Part
    rows: int
    kinds: Tensor
    masks: Tensor | None


@dataclass(frozen=True)
class Chunk:
    """Windows that are computed together, one size after the other.

    rows [R]: index of the token in each row, 0 for padding and unused rows; padding [R,1]: which
    rows are padding; None if there are none; slots [P]: index of the token in each slot; -1 for
    padding.
    """

    windows: list[Windows]
    rows: Tensor
    padding: Tensor | None
    slots: Tensor


def size_of(part: Part) -> Size:
    """Slots along time, height and width."""
    return tuple(len(along) for along in part)


@cached
def cut_windows(
    batch: int, grid: Size, cut: Cut, device: torch.device, dtype: torch.dtype
) -> tuple[list[Chunk], Tensor]:
    """The windows of a block for `batch` grids of tokens, and the slot of each token [M].

    The grid is padded at its end to full windows and shifted cyclically (figure 2). Slots are
    numbered through all chunks.
    """
    # Not inference tensors, even in inference mode, because training may use the cached ones.
    with torch.inference_mode(False):
        parts = _parts(batch, grid, cut)
        total = sum(token_WN.numel() for token_WN, _ in parts.values())
        count = 1 if cut.max_rows is None else math.ceil(total / cut.max_rows)
        windows: list[list[Windows]] = [[] for _ in range(count)]
        tokens: list[list[Tensor]] = [[] for _ in range(count)]
        begin = 0
        for part, (token_WN, kind_W) in parts.items():
            size = size_of(part)
            rows = -(-token_WN.shape[1] // cut.align) * cut.align
            masks = shift_masks(size, cut.mask_by, device, dtype) if any(cut.mask_by) else None
            for number, ws in _shares(begin, token_WN.shape, total, count):
                windows[number].append(Windows(part, rows, kind_W[ws].to(device), masks))
                tokens[number].append(token_WN[ws])
            begin += token_WN.numel()
        padded = any(size % step for size, step in zip(grid, cut.window, strict=True))
        chunks = [
            _chunk(some, theirs, padded, device)
            for some, theirs in zip(windows, tokens, strict=True)
            if some
        ]
        slot_P = torch.cat([chunk.slots for chunk in chunks])
        # Padding slots (-1) come first when slots are sorted by their tokens.
        return chunks, slot_P.argsort()[-batch * math.prod(grid) :]


def _shares(
    begin: int, shape: Sequence[int], total: int, count: int
) -> Iterator[tuple[int, list[int] | slice]]:
    """Which windows of one size, whose slots begin here, are in which of `count` equal chunks."""
    if count == 1:
        yield 0, slice(None)
        return
    windows, slots = shape
    chunk_of = [(begin + number * slots) * count // total for number in range(windows)]
    for chunk in sorted(set(chunk_of)):
        yield chunk, [number for number, its in enumerate(chunk_of) if its == chunk]


def _chunk(
    windows: list[Windows], tokens: list[Tensor], padded: bool, device: torch.device
) -> Chunk:
    """A chunk of windows whose slots have these tokens: [W,N] for each size."""
    row_R = torch.cat(
        [
            F.pad(token_WN, (0, same.rows - token_WN.shape[1])).flatten()
            for same, token_WN in zip(windows, tokens, strict=True)
        ]
    )
    padding = (row_R < 0)[:, None].to(device) if padded else None
    slot_P = torch.cat([token_WN.flatten() for token_WN in tokens])
    return Chunk(windows, row_R.clamp(min=0).to(device), padding, slot_P.to(device))


def _parts(batch: int, grid: Size, cut: Cut) -> dict[Part, tuple[Tensor, Tensor]]:
    """For each part of a window: the tokens in its slots [W,N], -1 for padding, the kinds [W]."""
    length = math.prod(grid)
    pad_t, pad_h, pad_w = (-size % step for size, step in zip(grid, cut.window, strict=True))
    token_THW = torch.arange(length).view(grid)
    token_THW = F.pad(token_THW, (0, pad_w, 0, pad_h, 0, pad_t), value=-1)
    token_THW = token_THW.roll([-by for by in cut.shift], (0, 1, 2))
    clip_B11 = torch.arange(batch).view(-1, 1, 1)
    along = zip(token_THW.shape, cut.window, cut.split_by, strict=True)
    found: dict[Part, list[tuple[Tensor, Tensor]]] = {}
    for axes in product(*(_split(*axis, cut.is_box) for axis in along)):
        tokens = token_THW[tuple(positions for positions, _ in axes)]
        part = tuple(slots for _, slots in axes)
        size = size_of(part)
        steps = dict(zip("thw", size, strict=True))
        token_WN = rearrange(tokens, "(a t) (b h) (c w) -> (a b c) (t h w)", **steps)
        token_BWN = torch.where(token_WN < 0, -1, token_WN + clip_B11 * length)
        kind_W = _kinds(tuple(tokens.shape), size, cut.mask_by).repeat(batch)
        found.setdefault(part, []).append((token_BWN.flatten(0, 1), kind_W))
    return {
        part: (torch.cat([token_WN for token_WN, _ in same]), torch.cat([k for _, k in same]))
        for part, same in found.items()
    }


def _split(length: int, step: int, by: int, is_box: bool) -> list[tuple[slice, range]]:
    """Ranges of a shifted grid along an axis, and the slots of a window that they fill.

    The last window is split into the grid's end and its first `by` positions, which costs less
    than a mask. In a box the slots of both are numbered from 0.
    """
    if not by:
        return [(slice(0, length), range(step))]
    return [
        (slice(0, length - step), range(step)),
        (slice(length - step, length - by), range(step - by)),
        (slice(length - by, length), range(by) if is_box else range(step - by, step)),
    ]


def _kinds(grid: Size, window: Size, shift: Size) -> Tensor:
    """The kind of each window of a cyclically shifted grid: [W], from 0 to 7.

    The last window along a shifted axis joins both ends of the grid. Each binary digit of a kind
    tells whether the window does so along one axis.
    """
    kind_W = torch.zeros(1, dtype=torch.long)
    for size, step, by in zip(grid, window, shift, strict=True):
        number = torch.arange(math.ceil(size / step))
        joins = (number == len(number) - 1) & (by > 0)
        kind_W = (2 * kind_W[:, None] + joins).flatten()
    return kind_W


@dataclass(frozen=True)
class KeptBiases:
    """Position biases for the windows of a cut, and the values of the table they are from."""

    cut: Cut
    table: Tensor
    bias_of: dict[Part, Tensor]

    def fits(self, cut: Cut, table: Tensor) -> bool:
        return self.cut == cut and self.table.dtype == table.dtype and self.table.equal(table)


@cached
def shift_masks(window: Size, shift: Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What is added to the attention scores in each kind of window: [8,N,N].

    Along an axis where a window joins both ends of the grid, its last `shift` slots come from the
    beginning of the grid and must not attend to the others.
    """
    with torch.inference_mode(False):
        beyond = [torch.arange(step) >= step - by for step, by in zip(window, shift, strict=True)]
        beyond_AN = torch.stack(torch.meshgrid(*beyond, indexing="ij")).flatten(1)
        apart_ANN = beyond_AN[:, :, None] != beyond_AN[:, None, :]
        joins_KA = torch.tensor(list(product((False, True), repeat=len(window))))
        apart_KNN = (joins_KA[:, :, None, None] & apart_ANN).any(1)
        mask_KNN = torch.zeros(apart_KNN.shape, dtype=dtype).masked_fill(apart_KNN, MASKED)
        return mask_KNN.to(device)


@cached
def relative_position(full: Size, window: Size, part: Part, device: torch.device) -> Tensor:
    """Row of the bias table for each pair of slots of a part of a window: [N,N].

    The rows are those of as many slots of the configured window, `full`; time varies slowest.
    """
    with torch.inference_mode(False):
        slots = torch.arange(math.prod(window)).view(window)
        slot_N = slots[tuple(slice(along.start, along.stop) for along in part)].flatten()
        axes = torch.unravel_index(slot_N, full)
        row_NN = torch.zeros((), dtype=torch.long)
        for axis_N, step in zip(axes, full, strict=True):
            row_NN = row_NN * (2 * step - 1) + axis_N[:, None] - axis_N + step - 1
        return row_NN.to(device)


def position_bias(table_MH: Tensor, full: Size, size: Size, rows: int) -> Tensor:
    """The bias of every pair of slots of windows of this size, -inf for unused rows: [H,N,rows].

    table_MH: a row for each offset within a window of the size `full`, time varying slowest. Since
    the bias depends on the offset alone, the values for a slot's keys along an axis lie next to
    each other: they are copied in runs, in a fraction of the time of looking up each pair.
    """
    table = table_MH.t().unflatten(1, [2 * step - 1 for step in full])
    for axis, (step, along) in enumerate(zip(full, size, strict=True), start=1):
        table = table.narrow(axis, step - along, 2 * along - 1)
    table = table.flip((1, 2, 3))  # from query - key to key - query
    for along in reversed(size[1:]):
        # H, queries so far, offsets left, keys so far: one axis after the other.
        table = torch.stack(_runs(table, along), dim=1)
    slots = math.prod(size)
    bias_HNR = table.new_empty(table_MH.shape[1], slots, rows)
    bias_HNR[..., slots:] = -math.inf
    by_query = bias_HNR[..., :slots].unflatten(1, (size[0], -1)).unbind(1)
    for bias, run in zip(by_query, _runs(table, size[0]), strict=True):
        bias.copy_(run.reshape(bias.shape))
    return bias_HNR


def _runs(table: Tensor, along: int) -> list[Tensor]:
    """The values for the keys of each query along an axis, which is the fourth dimension."""
    return [table.narrow(3, along - 1 - query, along) for query in range(along)]
