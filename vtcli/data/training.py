"""Training clips: frames drawn at random, one crop and one augmentation for all frames of a clip.

Everything random is a function of (seed, epoch, sample, repeat), so that neither the number of
threads nor a restart changes a clip. The order of work follows timm: crop, augment, resize,
normalise, mirror, erase. A video that cannot be read comes back as its error, in its place.
Legend: N frames of a video, L frames of a clip, s stride, T = L, S side of the network's frames.
"""

from __future__ import annotations

import math
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from vtcli.data.frame_cache import FrameCache
from vtcli.data.loader import open_sample
from vtcli.data.samples import Sample
from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.video.decode import Backend
from vtcli.video.footage import Footage
from vtcli.video.pipeline import Pipeline
from vtcli.video.sampling import SAMPLERS

if TYPE_CHECKING:
    from torch import Tensor

Indices: TypeAlias = npt.NDArray[np.int64]
Frames: TypeAlias = npt.NDArray[np.uint8]
WINDOWS = 64  # a sampling rule that goes by time gives so many windows to choose from
ATTEMPTS = 10  # at a crop of the wanted area and shape, before the largest one is taken


# --- which frames ---------------------------------------------------------------------------------


def random_in_segments(
    frames: int, length: int, stride: int, fps: float, rng: Generator
) -> Indices:
    """One random frame of each of L equal segments, both ends of a segment included.

    UniFormerV2; Something-Something in Video Swin and X-ViT.
    """
    edges = np.round((frames - 1) / length * np.arange(length + 1)).astype(np.int64)
    return rng.integers(edges[:-1], edges[1:], endpoint=True)


def random_strided_loop(
    frames: int, length: int, stride: int, fps: float, rng: Generator
) -> Indices:
    """L frames s apart from a random one on; short videos start at 0 and begin again at their end.

    Video Swin and ViViT on Kinetics.
    """
    room = max(frames - length * stride + 1, 1)
    return (rng.integers(room) + stride * np.arange(length, dtype=np.int64)) % frames


def random_clamped(frames: int, length: int, stride: int, fps: float, rng: Generator) -> Indices:
    """L frames spread over L*s from a random place on; the last frame repeats. X-ViT, Kinetics."""
    start = rng.uniform(0, max(frames - length * stride, 0))
    places = np.linspace(start, start + length * stride - 1, length)
    return np.clip(places, 0, frames - 1).astype(np.int64)


def random_window(frames: int, length: int, stride: int, fps: float, rng: Generator) -> Indices:
    """One of many windows of the video at 15 frames a second. Video Swin in torchvision."""
    windows = SAMPLERS["resampled_windows_looped"](frames, length, stride, WINDOWS, fps)
    return windows[rng.integers(WINDOWS)]


TRAINING_SAMPLERS: Mapping[str, Callable[[int, int, int, float, Generator], Indices]] = {
    "uniform_segments": random_in_segments,
    "segment_positions": random_in_segments,
    "uniform_linspace": random_in_segments,
    "dense_loop_segment_centres": random_strided_loop,
    "dense_loop_endpoints": random_strided_loop,
    "dense_loop_linspace": random_strided_loop,
    "dense_clamped": random_clamped,
    "resampled_windows_looped": random_window,
}
"""For each rule of testing its counterpart in training."""


# --- which pixels ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """What happens to the pixels of a clip; the fields are those of `engine.recipes.Recipe`."""

    aa: str = ""
    train_crop_mode: str = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.0
    reprob: float = 0.0


Box: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width."""


def draw_box(height: int, width: int, how: Augmentation, rng: Generator) -> Box:
    """A random crop: of an area (`rrc`) or of a side (`sides`) in `how.scale`, and of a shape in
    `how.ratio`. Where none fits, the largest of an allowed shape, in the middle.
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
            top, left = (rng.integers(room, endpoint=True) for room in (height - h, width - w))
            return int(top), int(left), h, w
    shape = min(max(width / height, how.ratio[0]), how.ratio[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - h) // 2, (width - w) // 2, h, w


_GLOBAL = threading.Lock()


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators, from which timm draws, seeded for one thread at a
    time and put back as they were.
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


def _note(operation: Callable[..., Any], tape: list[Operation], *args: Any, **kwargs: Any) -> Any:
    """Stands for one of timm's operations: writes down what it would do."""
    return [*tape, partial(_apply, operation, args, kwargs)]


def _apply(operation: Callable[..., Any], args: Any, kwargs: Any, picture: Any) -> Any:
    from PIL import Image
    from timm.data.auto_augment import posterize

    if operation is posterize and args[0] < 1:
        # timm keeps as little as no bit of each colour, which Pillow refuses since version 13.
        return Image.new(picture.mode, picture.size)
    return operation(picture, *args, **kwargs)


def auto_augment(words: str, size: int) -> Callable[[list[Operation]], list[Operation]]:
    """timm's RandAugment (`rand-...`) or AutoAugment, made to write its draw down instead of doing
    it, so that all frames of a clip get the same. Raises `UsageError` for words that timm does not
    know.
    """
    from PIL import Image
    from timm.data.auto_augment import auto_augment_transform, rand_augment_transform

    settings = {
        "translate_const": int(size * 0.45),
        "img_mean": (128, 128, 128),
        "interpolation": Image.Resampling.BICUBIC,
    }
    make = rand_augment_transform if words.startswith("rand") else auto_augment_transform
    try:
        transform = make(words, settings)
        policy = [getattr(transform, "ops", []), *getattr(transform, "policy", [])]
    except (AssertionError, ValueError, KeyError) as error:
        raise UsageError(f"--aa '{words}' is no augmentation of timm's ({error})") from error
    for operation in (op for part in policy for op in part):
        operation.aug_fn = partial(_note, operation.aug_fn)
    return transform


# --- one clip -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """One clip that is wanted: a sample by its number, in an epoch, and which repeat of it."""

    sample: Sample
    number: int
    epoch: int
    repeat: int = 0


@dataclass(frozen=True)
class Clip:
    """A clip ready for the network: float32 [3, T, S, S]; `short`: frames had to repeat."""

    pixels: Tensor
    short: bool


Drawn: TypeAlias = Clip | VideoDecodeError


class ClipDrawer:
    """Reads training clips of samples."""

    def __init__(
        self,
        pipeline: Pipeline,
        augmentation: Augmentation,
        seed: int,
        frame_rate: float | None = None,
        decoder: Backend = "auto",
        cache: FrameCache | None = None,
    ) -> None:
        self.pipeline, self.augmentation, self.seed = pipeline, augmentation, seed
        self.frame_rate, self.decoder, self.cache = frame_rate, decoder, cache
        self.operations: Any = None
        if augmentation.aa:
            self.operations = auto_augment(augmentation.aa, pipeline.crop_size)

    def read(self, draw: Draw) -> Clip:
        """Decode and augment one clip; raises `VideoDecodeError`."""
        rng = np.random.default_rng([self.seed, draw.epoch, draw.number, draw.repeat])
        sample, p = draw.sample, self.pipeline
        footage = self._open(sample)
        pick = TRAINING_SAMPLERS[p.sampling]
        try:
            indices = pick(footage.frames, p.frames, p.stride, footage.fps, rng)
        except InputError as error:
            raise VideoDecodeError(sample.path, "unsupported", str(error)) from error
        wanted, places = np.unique(indices, return_inverse=True)
        frames_NHWC = footage.read(wanted.tolist())
        return Clip(self._pixels(frames_NHWC, places, rng), len(wanted) < p.frames)

    def _open(self, sample: Sample) -> Footage:
        kept = self.cache.get(sample) if self.cache else None
        if kept is not None:
            return kept
        footage = open_sample(sample, self.frame_rate, self.decoder)
        if footage.frames < 1:
            raise VideoDecodeError(sample.path, "corrupt", "has no frames; take a whole file")
        return self.cache.keep(sample, footage) if self.cache else footage

    def _pixels(self, frames_NHWC: Frames, places_T: Indices, rng: Generator) -> Tensor:
        """Crop, augment, resize, normalise, mirror and erase: float32 [3, T, S, S]."""
        import torch

        how = self.augmentation
        _, height, width, _ = frames_NHWC.shape
        top, left, height, width = draw_box(height, width, how, rng)
        frames_NHWC = frames_NHWC[:, top : top + height, left : left + width]
        if self.operations is not None:
            frames_NHWC = self._augmented(frames_NHWC, rng)
        clip_NTSS = to_clip(frames_NHWC, self.pipeline)
        clip_CTSS = clip_NTSS.index_select(1, torch.from_numpy(places_T))
        if rng.random() < how.hflip:
            clip_CTSS = clip_CTSS.flip(-1)
        if how.reprob > 0:
            _erase(clip_CTSS, how.reprob, int(rng.integers(2**32)))
        return clip_CTSS.contiguous()

    def _augmented(self, frames_NHWC: Frames, rng: Generator) -> Frames:
        from PIL import Image

        with seeded_globals(int(rng.integers(2**32))):
            tape = self.operations([])
        pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames_NHWC]
        for operation in tape:
            pictures = [operation(picture) for picture in pictures]
        return np.stack([np.asarray(picture) for picture in pictures])


def to_clip(frames_THWC: Frames, pipeline: Pipeline) -> Tensor:
    """RGB frames of any shape resized to the network's, by the pipeline's rules: [3, T, S, S]."""
    import torch

    from vtcli.video.transforms import RESIZE_RULES, normalize_clip, normalize_frames

    rule, size = RESIZE_RULES[pipeline.resize], pipeline.crop_size
    pixels = torch.from_numpy(np.ascontiguousarray(frames_THWC))
    if pipeline.channel_order == "bgr":
        pixels = pixels.flip(-1)
    if rule.normalized_first:
        pixels = normalize_frames(pixels, pipeline.normalize, pipeline.mean, pipeline.std)
    if pixels.shape[1:3] != (size, size):
        pixels = rule.pixels(pixels, size, size)
    if rule.normalized_first:
        return pixels.permute(3, 0, 1, 2)
    return normalize_clip(pixels, pipeline.normalize, pipeline.mean, pipeline.std)


def _erase(clip_CTSS: Tensor, share: float, seed: int) -> None:
    """timm's random erasing to zero, in place: the same box in all frames."""
    from timm.data.random_erasing import RandomErasing

    erase = RandomErasing(share, mode="const", device="cpu")
    with seeded_globals(seed):
        erase(clip_CTSS.view(-1, *clip_CTSS.shape[2:]))


# --- many clips -----------------------------------------------------------------------------------


def epoch_order(samples: int, epoch: int, seed: int) -> list[int]:
    """The numbers of all samples in the order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(samples).tolist()


def draw_ahead(
    drawer: ClipDrawer, batches: Iterable[Sequence[Draw]], workers: int, pinned: bool = False
) -> Iterator[tuple[Sequence[Draw], list[Drawn]]]:
    """The clips of each batch, read ahead by `workers` threads: two clips for each are under way or
    ready, and at least one batch. In `pinned` memory a GPU fetches them while it works.
    """

    def load(draw: Draw) -> Drawn:
        try:
            clip = drawer.read(draw)
        except VideoDecodeError as error:
            return error
        return replace(clip, pixels=clip.pixels.pin_memory()) if pinned else clip

    coming = iter(batches)
    waiting: deque[tuple[Sequence[Draw], list[Future[Drawn]]]] = deque()
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        while True:
            while sum(len(futures) for _, futures in waiting) < 2 * workers or len(waiting) < 2:
                batch = next(coming, None)
                if batch is None:
                    break
                waiting.append((batch, [pool.submit(load, draw) for draw in batch]))
            if not waiting:
                return
            batch, futures = waiting.popleft()
            yield batch, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
