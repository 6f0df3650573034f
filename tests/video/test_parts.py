"""Videos whose frames do not fit into memory together are decoded in parts, with the same clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.video.barcode import OPEN_GOP, X264, draw, read_numbers, write_clip
from tests.video.test_pipeline import TABLE
from vtcli.data import clip_loader, train_loader
from vtcli.data.augment import Augmentation
from vtcli.data.clip_loader import ClipReader
from vtcli.data.samples import Sample
from vtcli.errors import VideoDecodeError
from vtcli.video import decode_pool, frame_source
from vtcli.video.decode import Limits
from vtcli.video.decode_pool import DecodePool
from vtcli.video.frame_source import FrameSource, Opener, open_frame_source
from vtcli.video.pipeline import Pipeline, plan_views
from vtcli.video.transforms import RESIZE_RULES
from vtcli.video.views import views_from_frames

SIZE = (192, 128)
FRAME_BYTES = 192 * 128 * 3
PIPELINE = Pipeline.from_dict(TABLE | {"frames": 8, "clips": 4, "crop_size": 14})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 60 frames in containers of different kinds, and as images."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "seekable.mp4", options=X264)
    write_clip(folder / "open_gop.mkv", options=OPEN_GOP)
    write_clip(folder / "untimed.ts", "mpeg2video")
    write_clip(folder / "raw.h264", options=X264)
    (folder / "images").mkdir()
    for number in range(60):
        Image.fromarray(draw(number, *SIZE)).save(folder / "images" / f"{number}.png")
    return folder


def in_parts_of(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    for module in (frame_source, decode_pool):
        monkeypatch.setattr(module, "PART_BYTES", frames * FRAME_BYTES)


def views(path: Path, pipeline: Pipeline, open_source: Opener = open_frame_source) -> list[Tensor]:
    reader = ClipReader(pipeline, 4, 3)
    return list(reader.read(Sample("v", path), open_source=open_source).clips)


def assembled(source: FrameSource, indices: list[int]) -> list[int]:
    shown = [-1] * len(indices)
    for rows, frames in source.parts(indices):
        for row, number in zip(rows, read_numbers(frames), strict=True):
            shown[row] = number
    return shown


@pytest.mark.parametrize(
    "name", ["seekable.mp4", "open_gop.mkv", "untimed.ts", "raw.h264", "images"]
)
def test_parts_have_the_requested_frames(
    clips: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(monkeypatch, 3)
    indices = [3, 4, 50, 51, 7, 3, 59]
    source = open_frame_source(clips / name)
    sizes = [len(rows) for rows, _ in source.parts(indices)]
    assert len(sizes) > 1
    assert max(sizes) <= 4  # the third frame of a part may have been requested twice
    assert assembled(source, indices) == indices
    part = open_frame_source(clips / name, frame_range=(10, 40))
    assert assembled(part, [0, 30, 5, 1]) == [10, 40, 15, 11]


@pytest.mark.parametrize("resize", RESIZE_RULES)
def test_clips_are_the_same_in_parts(
    clips: Path, resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline.from_dict(PIPELINE.to_dict() | {"resize": resize})
    whole = views(clips / "seekable.mp4", pipeline)
    in_parts_of(monkeypatch, 5)
    in_parts = views(clips / "seekable.mp4", pipeline)
    assert len(whole) == 12
    assert all(map(torch.equal, whole, in_parts))


def test_clips_are_the_same_in_parts_of_a_worker_process(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = views(clips / "seekable.mp4", PIPELINE)
    in_parts_of(monkeypatch, 5)
    with DecodePool(1) as pool:
        in_parts = views(clips / "seekable.mp4", PIPELINE, pool.open)
        damaged = clips / "damaged.mp4"
        data = bytearray((clips / "seekable.mp4").read_bytes())
        middle = data.index(b"mdat") + 3000
        data[middle : middle + 40] = bytes(40)
        damaged.write_bytes(data)
        with DecodePool(0) as here:
            expected = outcome(damaged, here)
        assert outcome(damaged, pool) == expected
        assert expected
    assert all(map(torch.equal, whole, in_parts))


def outcome(path: Path, pool: DecodePool) -> tuple[str, ...]:
    """The warnings of a video, or its error."""
    source = pool.open(path)
    try:
        for _ in source.parts(range(source.frames)):
            pass
    except VideoDecodeError as error:
        return (str(error),)
    return source.warnings


def test_training_clips_are_the_same_in_parts(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = Augmentation(aa="rand-m9-n2-mstd0.5-inc1", hflip=0.5, reprob=0.5)
    reader = train_loader.TrainClipReader(PIPELINE, augmentation, seed=3)
    requests = [train_loader.ClipRequest(Sample("v", clips / "seekable.mp4"), 0, e) for e in (0, 1)]
    whole = [reader.read(request).pixels for request in requests]
    in_parts_of(monkeypatch, 3)
    assert all(torch.equal(reader.read(r).pixels, w) for r, w in zip(requests, whole, strict=True))


def test_images_of_different_sizes_are_refused_in_parts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, size in enumerate([SIZE, SIZE, SIZE[::-1]]):
        Image.fromarray(draw(number, *size)).save(tmp_path / f"{number}.png")
    in_parts_of(monkeypatch, 1)
    with pytest.raises(VideoDecodeError, match="different sizes"):
        list(open_frame_source(tmp_path).parts([0, 1, 2]))


def test_a_4k_video_with_many_views_needs_no_more_memory_than_its_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "4k.mp4", "mpeg4", range(6), size=(3840, 2160))
    pipeline = replace(PIPELINE, frames=3, stride=1, short_side=112, crop_size=112)
    kept = 112 * 198 * 3 * 6  # bytes; the six frames have 149 MB
    monkeypatch.setattr(clip_loader, "DEFAULT_LIMITS", Limits(max_bytes=kept))
    with DecodePool(1) as pool:
        found = views(path, pipeline, pool.open)
    frames = open_frame_source(path).read(range(6))
    planned = plan_views(pipeline, 6, 25.0, 4, 3)
    at_once = views_from_frames(frames, {n: n for n in range(6)}, pipeline, planned)
    assert all(map(torch.equal, found, at_once))
    assert {index for view in planned for index in view.frame_indices} == set(range(6))
    monkeypatch.setattr(clip_loader, "DEFAULT_LIMITS", Limits(max_bytes=kept - 1))
    with pytest.raises(VideoDecodeError, match="use fewer views") as caught:
        views(path, pipeline)
    assert caught.value.reason == "limit"
