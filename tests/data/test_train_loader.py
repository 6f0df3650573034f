"""Training clips follow the specifications, are augmented alike in all frames and reproducible."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.evaluation.harness import class_folders
from vtcli.data.augment import Augmentation, sample_crop
from vtcli.data.clip_loader import open_sample
from vtcli.data.frame_cache import FrameCache
from vtcli.data.samples import Sample
from vtcli.data.splits import split_train_val
from vtcli.data.train_loader import (
    ClipRequest,
    TrainClip,
    TrainClipReader,
    epoch_order,
    prefetch_batches,
)
from vtcli.data.train_sampling import TRAINING_SAMPLERS
from vtcli.errors import UsageError, VideoDecodeError
from vtcli.video.pipeline import Pipeline
from vtcli.video.sampling import SAMPLERS
from vtcli.weights.registry import load_registry

PLAIN = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), train_crop_mode="sides")


def pipeline(name: str = "videoswin-kinetics", **changes: object) -> Pipeline:
    small = {"short_side": 32, "crop_size": 32, "frames": 8, **changes}
    return replace(load_registry().pipelines[name], **small)


def reader_for(augmentation: Augmentation, name: str = "videoswin-kinetics") -> TrainClipReader:
    return TrainClipReader(pipeline(name), augmentation, seed=3)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A folder of equal frames: any difference between the frames of a clip was added."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("still")
    noise = np.random.RandomState(0).randint(0, 255, (40, 56, 3), np.uint8)
    for number in range(20):
        Image.fromarray(noise).save(folder / f"{number:03}.png")
    return Sample("still", folder, (0,))


def test_every_test_time_rule_has_a_training_rule() -> None:
    assert set(TRAINING_SAMPLERS) == set(SAMPLERS)


@pytest.mark.parametrize("rule", sorted(TRAINING_SAMPLERS))
@pytest.mark.parametrize("frames", [1, 5, 64, 300])
def test_sampled_frames_are_in_the_video_and_in_temporal_order(rule: str, frames: int) -> None:
    rng = np.random.default_rng(0)
    sampled = np.stack([TRAINING_SAMPLERS[rule](frames, 8, 4, 30.0, rng) for _ in range(50)])
    assert sampled.shape == (50, 8)
    assert sampled.min() >= 0
    assert sampled.max() < frames
    if frames == 300:
        assert (np.diff(sampled) > 0).all()
        assert len({tuple(row) for row in sampled}) > 20


def test_one_frame_is_sampled_from_each_segment_including_its_ends() -> None:
    rng = np.random.default_rng(0)
    requests = [TRAINING_SAMPLERS["uniform_segments"](33, 8, 1, 0.0, rng) for _ in range(400)]
    # Segments of (33 - 1) / 8 = 4 frames: both 4 and 8 belong to the second one.
    assert {int(row[1]) for row in requests} == {4, 5, 6, 7, 8}


def test_strided_clips_start_wherever_they_fit_and_short_videos_loop() -> None:
    rng = np.random.default_rng(0)
    rule = TRAINING_SAMPLERS["dense_loop_segment_centers"]
    starts = {int(rule(20, 8, 2, 0.0, rng)[0]) for _ in range(200)}
    assert starts == {0, 1, 2, 3, 4}  # 20 - 16 + 1 starts fit
    assert rule(5, 8, 2, 0.0, rng).tolist() == [0, 2, 4, 1, 3, 0, 2, 4]


def test_crops_by_area_stay_in_their_bounds() -> None:
    rng = np.random.default_rng(0)
    how = Augmentation(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    for _ in range(200):
        top, left, height, width = sample_crop(120, 160, how, rng)
        assert 0 <= top <= 120 - height
        assert 0 <= left <= 160 - width
        assert 0.19 < height * width / (120 * 160) < 0.51
        assert 0.48 < width / height < 2.05


def test_crops_by_side_stay_in_their_bounds() -> None:
    rng = np.random.default_rng(0)
    how = Augmentation(train_crop_mode="sides", scale=(0.7, 0.875), ratio=(1.0, 1.0))
    sides = [sample_crop(100, 300, how, rng)[2:] for _ in range(200)]
    assert all(height == width and 70 <= height <= 88 for height, width in sides)


def test_where_no_crop_fits_the_largest_centered_one_is_taken() -> None:
    how = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert sample_crop(100, 300, how, np.random.default_rng(0)) == (0, 100, 100, 100)


@pytest.mark.parametrize("name", ["videoswin-kinetics", "uniformerv2-kinetics"])
@pytest.mark.parametrize("words", ["rand-m9-n4-mstd0.5-inc1", "v0"])
def test_all_frames_of_a_clip_are_augmented_alike(still: Sample, name: str, words: str) -> None:
    how = Augmentation(aa=words, hflip=0.5, reprob=1.0)
    reader = reader_for(how, name)
    clips = [reader.read(ClipRequest(still, 0, epoch)).pixels for epoch in range(6)]
    for clip in clips:
        assert clip.shape == (3, 8, 32, 32)
        assert torch.equal(clip, clip[:, :1].expand_as(clip))
    assert len({clip.numpy().tobytes() for clip in clips}) == 6


def test_every_policy_of_autoaugment_can_be_sampled(still: Sample) -> None:
    augmenting = reader_for(replace(PLAIN, aa="v0"))
    clips = [augmenting.read(ClipRequest(still, 0, epoch)).pixels for epoch in range(150)]
    # One policy keeps 0 bits per channel, which leaves a single color.
    assert any(float(clip.std(dim=(1, 2, 3)).max()) == 0 for clip in clips)
    assert all(torch.equal(clip, clip[:, :1].expand_as(clip)) for clip in clips)


def test_erasing_sets_the_same_box_of_all_frames_to_zero(still: Sample) -> None:
    plain = reader_for(PLAIN).read(ClipRequest(still, 0, 0)).pixels
    erased = reader_for(replace(PLAIN, reprob=1.0)).read(ClipRequest(still, 0, 0)).pixels
    hit = (erased != plain)[0, 0]
    rows, columns = hit.any(1).nonzero(), hit.any(0).nonzero()
    box = erased[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (box == 0).all()
    assert 0.015 < box[0, 0].numel() / 32**2 < 0.4


def test_flipped_clips_are_mirrored(still: Sample) -> None:
    plain = reader_for(PLAIN).read(ClipRequest(still, 0, 0)).pixels
    flipped = reader_for(replace(PLAIN, hflip=1.0)).read(ClipRequest(still, 0, 0)).pixels
    assert torch.equal(flipped, plain.flip(-1))


def test_a_clip_depends_only_on_seed_epoch_sample_and_repeat(tmp_path: Path) -> None:
    sample = Sample("a", tiny.video(tmp_path / "a.mp4", 40), (0,))
    how = Augmentation(aa="rand-m9-n2", hflip=0.5, reprob=0.5)
    once = reader_for(how).read(ClipRequest(sample, 7, 2, 1)).pixels
    random.seed(1)
    np.random.seed(1)
    before = random.getstate()
    again = reader_for(how)
    again.read(ClipRequest(sample, 0, 0))
    assert torch.equal(again.read(ClipRequest(sample, 7, 2, 1)).pixels, once)
    assert random.getstate() == before  # the global generator is restored
    others = [(7, 2, 0), (7, 3, 1), (8, 2, 1)]
    assert not any(torch.equal(again.read(ClipRequest(sample, *o)).pixels, once) for o in others)


def test_clips_and_their_order_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    samples = [
        Sample(str(n), tiny.video(tmp_path / f"{n}.mp4", 10 + n, seed=n), (0,)) for n in range(5)
    ]
    batches = [
        [ClipRequest(s, n, 0) for n, s in enumerate(samples)][i : i + 2] for i in range(0, 5, 2)
    ]
    reader = reader_for(Augmentation(aa="rand-m9-n2"))
    one, four = (
        [clip.pixels for _, clips in prefetch_batches(reader, batches, workers) for clip in clips]
        for workers in (1, 4)
    )
    assert len(one) == 5
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


def test_a_broken_video_is_returned_as_its_error(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    good = Sample("good", tiny.video(tmp_path / "good.mp4"), (0,))
    batch = [
        ClipRequest(Sample("broken", tmp_path / "broken.mp4", (0,)), 0, 0),
        ClipRequest(good, 1, 0),
    ]
    [(_, (broken, clip))] = list(prefetch_batches(reader_for(PLAIN), [batch], 2))
    assert isinstance(broken, VideoDecodeError)
    assert isinstance(clip, TrainClip)
    assert not clip.padded


def test_a_clip_that_repeats_frames_is_marked_as_padded(tmp_path: Path) -> None:
    sample = Sample("a", tiny.video(tmp_path / "a.mp4", 5), (0,))
    assert reader_for(PLAIN).read(ClipRequest(sample, 0, 0)).padded


def test_an_unknown_augmentation_policy_is_refused() -> None:
    with pytest.raises(UsageError, match="--aa 'rand-x9'"):
        reader_for(Augmentation(aa="rand-x9"))


def test_every_epoch_has_its_own_order_of_all_samples() -> None:
    orders = [epoch_order(20, epoch, seed=0) for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch_order(20, 1, seed=0) == orders[1] != epoch_order(20, 1, seed=1)


def test_cached_frames_give_the_same_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = class_folders(tmp_path / "videos", 3, ("a", "b"))
    samples = split_train_val(videos, val_fraction=0.34).train.samples
    plain = TrainClipReader(pipeline(), PLAIN, seed=3)
    caching = TrainClipReader(pipeline(), PLAIN, seed=3, cache=FrameCache(10**8))
    requests = [ClipRequest(s, n, epoch) for epoch in range(2) for n, s in enumerate(samples)]
    wanted = [plain.read(request).pixels for request in requests]
    assert all(map(torch.equal, [caching.read(request).pixels for request in requests], wanted))
    # From here on no file is opened.
    monkeypatch.setattr("vtcli.data.train_loader.open_sample", None)
    assert all(map(torch.equal, [caching.read(request).pixels for request in requests], wanted))


def test_the_cache_holds_only_as_many_frames_as_fit(tmp_path: Path) -> None:
    (sample,) = split_train_val(class_folders(tmp_path / "videos", 2, ("a", "b"))).train.samples[:1]
    source = open_sample(sample, None, "auto")
    whole = source.frames * source.frame_bytes
    cache = FrameCache(whole - 1)
    assert cache.add(sample, source) is source
    assert cache.get(sample) is None
    cache = FrameCache(whole)
    assert cache.add(sample, source) is not source
    assert cache.free_bytes == 0


@pytest.mark.parametrize("damaged", [0, 11], ids=["first", "later"])
def test_a_damaged_image_fails_only_the_clips_that_need_it(damaged: int, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(20):
        Image.new("RGB", (40, 32), (number, 0, 0)).save(tmp_path / f"{number:03}.png")
    (tmp_path / f"{damaged:03}.png").write_bytes(b"not an image")
    sample = Sample("folder", tmp_path, (0,))
    plain = TrainClipReader(pipeline(), PLAIN, seed=3)
    caching = TrainClipReader(pipeline(), PLAIN, seed=3, cache=FrameCache(10**8))

    def read(reader: TrainClipReader, epoch: int) -> str:
        try:
            return str(reader.read(ClipRequest(sample, 0, epoch)).pixels[0, :, 0, 0].tolist())
        except VideoDecodeError as error:
            return str(error)

    found = [read(plain, epoch) for epoch in range(16)]
    assert [read(caching, epoch) for epoch in range(16)] == found
    assert 0 < sum(f"{damaged:03}.png" in text for text in found) < 16


def test_a_sample_that_is_being_read_is_counted_once(tmp_path: Path) -> None:
    (sample,) = split_train_val(class_folders(tmp_path / "videos", 2, ("a", "b"))).train.samples[:1]
    source = open_sample(sample, None, "auto")
    whole = source.frames * source.frame_bytes
    cache = FrameCache(3 * whole)
    meanwhile = []

    class SlowSource:
        frames, fps, frame_bytes = source.frames, source.fps, source.frame_bytes
        times, warnings = source.times, ()

        def read(self, indices: Sequence[int]) -> np.ndarray:
            meanwhile.append(cache.add(sample, source))
            return source.read(indices)

    cached = cache.add(sample, SlowSource())
    assert meanwhile == [source]
    assert cache.add(sample, source) is cached
    assert cache.free_bytes == 2 * whole
