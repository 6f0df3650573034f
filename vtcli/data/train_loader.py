"""Training clips: frames drawn at random, one crop and one augmentation for all frames of a clip.

Everything random is a function of (seed, epoch, sample, repeat), so that neither the number of
threads nor a restart changes a clip. The order of work follows timm: crop, augment, resize,
normalize, mirror, erase. A video that cannot be read comes back as its error, in its place.
Legend: N frames of a video, L frames of a clip, s stride, T = L, S side of the network's frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.random import Generator

from vtcli.data.augment import (
    Augmentation,
    Frames,
    _erase,
    auto_augment,
    sample_crop,
    seeded_globals,
    to_clip,
)
from vtcli.data.clip_loader import open_sample
from vtcli.data.frame_cache import FrameCache
from vtcli.data.samples import Sample
from vtcli.data.train_sampling import TRAINING_SAMPLERS, Indices
from vtcli.errors import InputError, VideoDecodeError
from vtcli.video.decode import Backend
from vtcli.video.frame_source import FrameSource
from vtcli.video.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor


# --- which frames ---------------------------------------------------------------------------------


# --- which pixels ---------------------------------------------------------------------------------


# --- one clip -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipRequest:
    """One clip that is wanted: a sample by its number, in an epoch, and which repeat of it."""

    sample: Sample
    number: int
    epoch: int
    repeat: int = 0


@dataclass(frozen=True)
class TrainClip:
    """A clip ready for the network: float32 [3, T, S, S]; `short`: frames had to repeat."""

    pixels: Tensor
    short: bool


TrainClipOrError: TypeAlias = TrainClip | VideoDecodeError


class TrainClipReader:
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

    def read(self, draw: ClipRequest) -> TrainClip:
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
        return TrainClip(self._pixels(frames_NHWC, places, rng), len(wanted) < p.frames)

    def _open(self, sample: Sample) -> FrameSource:
        kept = self.cache.get(sample) if self.cache else None
        if kept is not None:
            return kept
        footage = open_sample(sample, self.frame_rate, self.decoder)
        if footage.frames < 1:
            raise VideoDecodeError(sample.path, "corrupt", "has no frames; take a whole file")
        return self.cache.keep(sample, footage) if self.cache else footage

    def _pixels(self, frames_NHWC: Frames, places_T: Indices, rng: Generator) -> Tensor:
        """Crop, augment, resize, normalize, mirror and erase: float32 [3, T, S, S]."""
        import torch

        how = self.augmentation
        _, height, width, _ = frames_NHWC.shape
        top, left, height, width = sample_crop(height, width, how, rng)
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


# --- many clips -----------------------------------------------------------------------------------


def epoch_order(samples: int, epoch: int, seed: int) -> list[int]:
    """The numbers of all samples in the order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(samples).tolist()


def prefetch_batches(
    drawer: TrainClipReader,
    batches: Iterable[Sequence[ClipRequest]],
    workers: int,
    pinned: bool = False,
) -> Iterator[tuple[Sequence[ClipRequest], list[TrainClipOrError]]]:
    """The clips of each batch, read ahead by `workers` threads: two clips for each are under way or
    ready, and at least one batch. In `pinned` memory a GPU fetches them while it works.
    """

    def load(draw: ClipRequest) -> TrainClipOrError:
        try:
            clip = drawer.read(draw)
        except VideoDecodeError as error:
            return error
        return replace(clip, pixels=clip.pixels.pin_memory()) if pinned else clip

    coming = iter(batches)
    waiting: deque[tuple[Sequence[ClipRequest], list[Future[TrainClipOrError]]]] = deque()
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
