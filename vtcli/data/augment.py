"""Augmentation of training clips: random crops, timm's RandAugment and AutoAugment, random erasing.

timm samples per image; here its operations are recorded once and applied to all frames of a clip.

Shape legend: T frames, H height, W width, C = 3 channels, S crop size.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from vtcli.errors import UsageError
from vtcli.video.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor

Frames: TypeAlias = npt.NDArray[np.uint8]


ATTEMPTS = 10
"""Random crops that are tried before the largest centered one is taken."""


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a clip's pixels; the fields are those of a training recipe."""

    aa: str = ""
    train_crop_mode: str = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.0
    reprob: float = 0.0


Box: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width, in pixels."""


def sample_crop(height: int, width: int, how: Augmentation, rng: Generator) -> Box:
    """A random crop whose area (`rrc`) or side (`sides`) is a fraction in `how.scale` of the
    frame's, and whose aspect ratio is in `how.ratio`. Where none fits, the largest centered crop
    with an allowed aspect ratio.
    """
    low, high = (math.log(bound) for bound in how.ratio)
    for _ in range(ATTEMPTS):
        size, shape = rng.uniform(*how.scale), math.exp(rng.uniform(low, high))
        if how.train_crop_mode == "rrc":
            side = math.sqrt(size * height * width)
        else:
            side = size * min(height, width)
        h, w = round(side / math.sqrt(shape)), round(side * math.sqrt(shape))
        if 0 < h <= height and 0 < w <= width:
            top, left = (rng.integers(slack, endpoint=True) for slack in (height - h, width - w))
            return int(top), int(left), h, w
    shape = min(max(width / height, how.ratio[0]), how.ratio[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - h) // 2, (width - w) // 2, h, w


_GLOBAL = threading.Lock()


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and NumPy, which timm uses, for one thread at a time,
    and restore them afterwards.
    """
    with _GLOBAL:
        before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


Operation: TypeAlias = Callable[[Any], Any]


def _record(
    operation: Callable[..., Any], recorded: list[Operation], *args: Any, **kwargs: Any
) -> Any:
    """Replaces one of timm's operations: appends the call instead of making it."""
    return [*recorded, partial(_apply, operation, args, kwargs)]


def _apply(operation: Callable[..., Any], args: Any, kwargs: Any, image: Any) -> Any:
    from PIL import Image
    from timm.data.auto_augment import posterize

    if operation is posterize and args[0] < 1:
        # timm may keep 0 bits per channel, which Pillow refuses since version 13.
        return Image.new(image.mode, image.size)
    return operation(image, *args, **kwargs)


def auto_augment(policy: str, size: int) -> Callable[[list[Operation]], list[Operation]]:
    """timm's RandAugment (`rand-...`) or AutoAugment as a function that returns the operations it
    sampled, so that all frames of a clip get the same.

    Raises `UsageError` for a policy that timm does not know.
    """
    from PIL import Image
    from timm.data.auto_augment import auto_augment_transform, rand_augment_transform

    settings = {
        "translate_const": int(size * 0.45),
        "img_mean": (128, 128, 128),
        "interpolation": Image.Resampling.BICUBIC,
    }
    make = rand_augment_transform if policy.startswith("rand") else auto_augment_transform
    try:
        transform = make(policy, settings)
        parts = [getattr(transform, "ops", []), *getattr(transform, "policy", [])]
    except (AssertionError, ValueError, KeyError) as error:
        raise UsageError(
            f"--aa '{policy}' is not an augmentation policy of timm ({error}); an example is "
            "rand-m9-n2-mstd0.5-inc1"
        ) from error
    for operation in (op for part in parts for op in part):
        operation.aug_fn = partial(_record, operation.aug_fn)
    return transform


def to_clip(frames_THWC: Frames, pipeline: Pipeline) -> Tensor:
    """RGB frames of any shape, resized and normalized by the pipeline's rules: [3, T, S, S]."""
    import torch

    from vtcli.video.transforms import (
        RESIZE_RULES,
        in_channel_order,
        normalize_clip,
        normalize_frames,
    )

    rule, size = RESIZE_RULES[pipeline.resize], pipeline.crop_size
    pixels = torch.from_numpy(np.ascontiguousarray(frames_THWC))
    pixels = in_channel_order(pixels, pipeline.channel_order)
    if rule.normalized_first:
        pixels = normalize_frames(pixels, pipeline.normalize, pipeline.mean, pipeline.std)
    if pixels.shape[1:3] != (size, size):
        pixels = rule.pixels(pixels, size, size)
    if rule.normalized_first:
        return pixels.permute(3, 0, 1, 2)
    return normalize_clip(pixels, pipeline.normalize, pipeline.mean, pipeline.std)


def random_erase(clip_CTSS: Tensor, probability: float, seed: int) -> None:
    """timm's random erasing to zero, in place, with the same box in all frames."""
    from timm.data.random_erasing import RandomErasing

    erase = RandomErasing(probability, mode="const", device="cpu")
    with seeded_globals(seed):
        erase(clip_CTSS.view(-1, *clip_CTSS.shape[2:]))
