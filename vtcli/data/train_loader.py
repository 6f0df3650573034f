"""Loads training clips: randomly sampled frames, one crop and one augmentation for all frames.

Everything random is a function of (seed, epoch, sample, repeat), so that neither the number of
threads nor a resumed run changes a clip. The order follows timm: crop, augment, resize, normalize,
flip, erase. A video that cannot be read is returned as its error, in its place.

Shape legend: N frames of a video, H height, W width, T frames of a clip, S crop size.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.random import Generator as RandomGenerator

from vtcli.data.augment import (
    Augmentation,
    Box,
    Frames,
    Operation,
    auto_augment,
    random_erase,
    sample_crop,
    seeded_globals,
    to_clip,
)
from vtcli.data.clip_loader import open_sample
from vtcli.data.frame_cache import FrameCache
from vtcli.data.samples import Sample
from vtcli.data.train_sampling import TRAINING_SAMPLERS, Indices
from vtcli.errors import InputError, VideoDecodeError
from vtcli.runtime.prefetch import prefetch
from vtcli.video.decode import Backend, FrameParts
from vtcli.video.frame_source import FrameSource, Opener, open_frame_source
from vtcli.video.pipeline import Pipeline

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ClipRequest:
    """A clip to load: the sample, its number in the dataset, the epoch, and which repeat of it."""

    sample: Sample
    number: int
    epoch: int
    repeat: int = 0


@dataclass(frozen=True)
class TrainClip:
    """A clip ready for the network: float32 [3, T, S, S].

    `padded`: the video has fewer frames than the clip, so that some are repeated.
    """

    pixels: Tensor
    padded: bool


TrainClipOrError: TypeAlias = TrainClip | VideoDecodeError


class TrainClipReader:
    """Turns requests into training clips; may be used by several threads.

    `frame_rate` is that of folders of frames, whose images do not state it. With a `cache`, decoded
    videos are kept in memory; the clips are the same. `open_source` opens them, by default in this
    process. Raises `UsageError` for an augmentation
    policy that timm does not know.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        augmentation: Augmentation,
        seed: int,
        frame_rate: float | None = None,
        decoder: Backend = "auto",
        cache: FrameCache | None = None,
        open_source: Opener = open_frame_source,
    ) -> None:
        self.pipeline, self.augmentation, self.seed = pipeline, augmentation, seed
        self.frame_rate, self.decoder, self.cache = frame_rate, decoder, cache
        self.open_source = open_source
        self.policy: Any = None
        if augmentation.aa:
            self.policy = auto_augment(augmentation.aa, pipeline.crop_size)

    def read(self, request: ClipRequest) -> TrainClip:
        """Decode and augment one clip; raises `VideoDecodeError`."""
        rng = np.random.default_rng([self.seed, request.epoch, request.number, request.repeat])
        sample, p = request.sample, self.pipeline
        source = self._open(sample)
        sampler = TRAINING_SAMPLERS[p.sampling]
        try:
            indices = sampler(source.frames, p.frames, p.stride, source.fps, rng)
        except InputError as error:
            raise VideoDecodeError(sample.path, "unsupported", str(error)) from error
        unique, rows_T = np.unique(indices, return_inverse=True)
        with closing(source.parts(unique.tolist())) as parts:
            pixels = self._pixels(parts, rows_T, rng)
        return TrainClip(pixels, len(unique) < p.frames)

    def _open(self, sample: Sample) -> FrameSource:
        cached = self.cache.get(sample) if self.cache else None
        if cached is not None:
            return cached
        source = open_sample(sample, self.frame_rate, self.decoder, self.open_source)
        if source.frames < 1:
            raise VideoDecodeError(sample.path, "corrupt", "has no frames; use a complete file")
        return self.cache.add(sample, source) if self.cache else source

    def _pixels(self, parts: FrameParts, rows_T: Indices, rng: RandomGenerator) -> Tensor:
        """Crop, augment, resize, normalize, flip and erase: float32 [3, T, S, S]."""
        import torch

        how = self.augmentation
        box: Box | None = None
        operations: list[Operation] = []
        place_of: dict[int, int] = {}
        clips: list[Tensor] = []
        for rows, frames_NHWC in parts:
            if box is None:
                _, height, width, _ = frames_NHWC.shape
                box = sample_crop(height, width, how, rng)
                operations = self._sample_operations(rng)
            done = sum(clip.shape[1] for clip in clips)
            place_of |= {row: done + n for n, row in enumerate(rows)}
            top, left, height, width = box
            cut_NHWC = frames_NHWC[:, top : top + height, left : left + width]
            clips.append(to_clip(_augmented(cut_NHWC, operations), self.pipeline))
        places_T = torch.tensor([place_of[row] for row in rows_T.tolist()])
        clip_CTSS = torch.cat(clips, 1).index_select(1, places_T)
        if rng.random() < how.hflip:
            clip_CTSS = clip_CTSS.flip(-1)
        if how.reprob > 0:
            random_erase(clip_CTSS, how.reprob, int(rng.integers(2**32)))
        return clip_CTSS.contiguous()

    def _sample_operations(self, rng: RandomGenerator) -> list[Operation]:
        if self.policy is None:
            return []
        with seeded_globals(int(rng.integers(2**32))):
            return self.policy([])


def _augmented(frames_NHWC: Frames, operations: Sequence[Operation]) -> Frames:
    from PIL import Image

    if not operations:
        return frames_NHWC
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames_NHWC]
    for operation in operations:
        images = [operation(image) for image in images]
    return np.stack([np.asarray(image) for image in images])


def epoch_order(samples: int, epoch: int, seed: int) -> list[int]:
    """The numbers of all samples, shuffled for an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(samples).tolist()


def balanced_order(
    rows: Sequence[tuple[float, tuple[int, ...]]], epoch: int, seed: int
) -> list[int]:
    """The numbers of as many samples as there are, drawn for an epoch and shuffled.

    `rows` has the relative frequency of every sample, and its class. Samples are drawn
    systematically (Madow, 1949), class by class: each is drawn as often as its frequency says,
    rounded up or down at random, and so is each class.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(rows))
    by_class = sorted(shuffled.tolist(), key=lambda number: rows[number][1])
    frequency = np.array([rows[number][0] for number in by_class])
    ends = np.cumsum(frequency) * (len(rows) / frequency.sum())
    drawn = np.searchsorted(ends, rng.random() + np.arange(len(rows)), side="right")
    chosen = np.array(by_class)[np.minimum(drawn, len(rows) - 1)]
    return rng.permutation(chosen).tolist()


def prefetch_batches(
    reader: TrainClipReader,
    batches: Iterable[Sequence[ClipRequest]],
    workers: int,
    pinned: bool = False,
) -> Generator[tuple[Sequence[ClipRequest], list[TrainClipOrError]], None, None]:
    """The clips of each batch; `workers` threads prefetch two clips per thread, and at least the
    next batch. `pinned` memory lets a GPU copy them while it computes.
    """

    def load(request: ClipRequest) -> TrainClipOrError:
        try:
            clip = reader.read(request)
        except VideoDecodeError as error:
            return error
        return replace(clip, pixels=clip.pixels.pin_memory()) if pinned else clip

    return prefetch(load, batches, workers, ahead=2 * workers)
