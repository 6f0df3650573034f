"""Loads training clips: randomly sampled frames, one crop and one augmentation for all frames.

Everything random is a function of (seed, epoch, sample, repeat), so that neither the number of
threads nor a resumed run changes a clip. The order follows timm: crop, augment, resize, normalize,
flip, erase. A video that cannot be read is returned as its error, in its place.

Shape legend: N frames of a video, H height, W width, T frames of a clip, S crop size.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.random import Generator as RandomGenerator

from vtcli.data.augment import (
    Augmentation,
    Frames,
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
from vtcli.video.decode import Backend
from vtcli.video.frame_source import FrameSource
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
    videos are kept in memory; the clips are the same. Raises `UsageError` for an augmentation
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
    ) -> None:
        self.pipeline, self.augmentation, self.seed = pipeline, augmentation, seed
        self.frame_rate, self.decoder, self.cache = frame_rate, decoder, cache
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
        frames_NHWC = source.read(unique.tolist())
        return TrainClip(self._pixels(frames_NHWC, rows_T, rng), len(unique) < p.frames)

    def _open(self, sample: Sample) -> FrameSource:
        cached = self.cache.get(sample) if self.cache else None
        if cached is not None:
            return cached
        source = open_sample(sample, self.frame_rate, self.decoder)
        if source.frames < 1:
            raise VideoDecodeError(sample.path, "corrupt", "has no frames; use a complete file")
        return self.cache.add(sample, source) if self.cache else source

    def _pixels(self, frames_NHWC: Frames, rows_T: Indices, rng: RandomGenerator) -> Tensor:
        """Crop, augment, resize, normalize, flip and erase: float32 [3, T, S, S]."""
        import torch

        how = self.augmentation
        _, height, width, _ = frames_NHWC.shape
        top, left, height, width = sample_crop(height, width, how, rng)
        frames_NHWC = frames_NHWC[:, top : top + height, left : left + width]
        if self.policy is not None:
            frames_NHWC = self._augmented(frames_NHWC, rng)
        clip_CNSS = to_clip(frames_NHWC, self.pipeline)
        clip_CTSS = clip_CNSS.index_select(1, torch.from_numpy(rows_T))
        if rng.random() < how.hflip:
            clip_CTSS = clip_CTSS.flip(-1)
        if how.reprob > 0:
            random_erase(clip_CTSS, how.reprob, int(rng.integers(2**32)))
        return clip_CTSS.contiguous()

    def _augmented(self, frames_NHWC: Frames, rng: RandomGenerator) -> Frames:
        from PIL import Image

        with seeded_globals(int(rng.integers(2**32))):
            operations = self.policy([])
        images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames_NHWC]
        for operation in operations:
            images = [operation(image) for image in images]
        return np.stack([np.asarray(image) for image in images])


def epoch_order(samples: int, epoch: int, seed: int) -> list[int]:
    """The numbers of all samples, shuffled for an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(samples).tolist()


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
