"""Windows of Video Swin (arXiv 2106.13230, section 3.2, figure 2): which token is where in which
window, which pairs of tokens are masked after the cyclic shift, and relative positions.

Everything here depends on sizes alone, so the latest results are cached.

Shapes: T,H,W tokens along time, height, width, M tokens of all clips, W windows of N slots, P slots
of all windows, K kinds of windows, A = 3 axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import product
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Size = tuple[int, ...]  # along time, height, width
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
class Windows:
    """Windows of one size, and which of their slots must not attend to each other.

    tokens [W,N]: index of the token in each slot, -1 for padding; padded: whether there is any;
    part: which slots of a full window these are; kinds [W]: the kind of each window;
    masks [K,N,N]: added to the attention scores in windows of each kind; None if not needed.
    """

    tokens: Tensor
    padded: bool
    part: slice
    kinds: Tensor
    masks: Tensor | None


@cached
def cut_windows(
    batch: int, grid: Size, window: Size, shift: Size, device: torch.device, dtype: torch.dtype
) -> tuple[list[Windows], Tensor]:
    """The windows of a block for `batch` grids of tokens, and the slot of each token [M].

    The grid is padded at its end to full windows and shifted cyclically (figure 2). Slots are
    numbered through all windows.
    """
    # Not inference tensors, even in inference mode, because training may use the cached ones.
    with torch.inference_mode(False):
        length, (_, h, w) = math.prod(grid), window
        pad_t, pad_h, pad_w = (-size % step for size, step in zip(grid, window, strict=True))
        token_THW = torch.arange(length).view(grid)
        token_THW = F.pad(token_THW, (0, pad_w, 0, pad_h, 0, pad_t), value=-1)
        token_THW = token_THW.roll([-by for by in shift], (0, 1, 2))
        clip_B11 = torch.arange(batch).view(-1, 1, 1)
        cut = []
        for frames, part in _cut_in_time(len(token_THW), window[0], shift[0]):
            size, by = (part.stop - part.start, h, w), (0, *shift[1:])
            axes = dict(zip("thw", size, strict=True))
            tokens = token_THW[frames]
            token_WN = rearrange(tokens, "(a t) (b h) (c w) -> (a b c) (t h w)", **axes)
            token_BWN = torch.where(token_WN < 0, -1, token_WN + clip_B11 * length)
            kind_W = _kinds(tuple(tokens.shape), size, by).repeat(batch)
            order_W: Tensor | slice = slice(None)
            if not torch.compiler.is_compiling():  # ONNX has no stable sorting
                # Windows of a kind follow each other: their mask is added to the bias once.
                order_W = kind_W.argsort(stable=True)
            windows = Windows(
                tokens=token_BWN.flatten(0, 1)[order_W].to(device),
                padded=pad_t + pad_h + pad_w > 0,
                part=slice(part.start * h * w, part.stop * h * w),
                kinds=kind_W[order_W].to(device),
                masks=shift_masks(size, by, device, dtype) if any(by) else None,
            )
            cut.append(windows)
        token_P = torch.cat([windows.tokens.flatten() for windows in cut])
        # Padding slots (-1) come first when slots are sorted by their tokens.
        return cut, token_P.argsort()[-batch * length :]


def _cut_in_time(frames: int, step: int, by: int) -> list[tuple[slice, slice]]:
    """Ranges of frames of a shifted grid, and the frames of a window that they fill.

    The last window joins the grid's end to its first `by` frames. They must not attend to each
    other, so it is split into two windows, which costs less than a mask.
    """
    if not by:
        return [(slice(0, frames), slice(0, step))]
    return [
        (slice(0, frames - step), slice(0, step)),
        (slice(frames - step, frames - by), slice(0, step - by)),
        (slice(frames - by, frames), slice(step - by, step)),
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
def relative_position(window: Size, device: torch.device) -> Tensor:
    """Row of the bias table for each pair of slots of a window; time varies slowest: [N,N]."""
    with torch.inference_mode(False):
        axes = torch.meshgrid(*(torch.arange(step) for step in window), indexing="ij")
        row_NN = torch.zeros((), dtype=torch.long)
        for axis, step in zip(axes, window, strict=True):
            offset_NN = axis.reshape(-1, 1) - axis.reshape(1, -1)
            row_NN = row_NN * (2 * step - 1) + offset_NN + step - 1
        return row_NN.to(device)
