"""Every rule samples the frames that upstream samples, also in the shortest video."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest

from tests.goldens import golden_dir
from vtcli.errors import InputError, UsageError
from vtcli.video.sampling import (
    SAMPLERS,
    dense_clamped,
    dense_loop_endpoints,
    dense_loop_linspace,
    dense_loop_segment_centers,
    resampled_windows_looped,
    segment_positions,
    uniform_linspace,
    uniform_segments,
)

MOST_CLIPS = {"uniform_linspace": 1, "segment_positions": 3}


def table(arch: str, name: str, field: str | None = None) -> Iterator[tuple[list[float], object]]:
    """Each entry of a golden index table with the numbers in its key."""
    entries = json.loads((golden_dir(arch) / f"{name}.json").read_text())
    for key, value in (entries[field] if field else entries).items():
        if isinstance(value, list | dict):
            yield [float(n) for n in re.findall(r"\d+(?:\.\d+)?", key)], value


def test_uniform_segments_are_upstreams() -> None:
    for (num_frames, length, clips), expected in table("uniformerv2", "sampling_examples"):
        found = uniform_segments(int(num_frames), int(length), 1, int(clips), 30.0)
        assert found.tolist() == expected


@pytest.mark.parametrize(
    ("layout", "rule"),
    [("official", dense_loop_segment_centers), ("mmaction2", dense_loop_endpoints)],
)
def test_video_swin_clips_are_upstreams(layout: str, rule: object) -> None:
    for numbers, expected in table("videoswin", f"pipeline_{layout}", "frame_index_table"):
        num_frames, length, *dense = (int(n) for n in numbers)
        stride, clips = dense or (1, 1)
        sampler = rule if dense else segment_positions
        found = sampler(num_frames, length, stride, clips, 30.0)  # type: ignore[operator]
        assert found.ravel().tolist() == expected, numbers


def test_torchvision_windows_are_upstreams() -> None:
    for numbers, expected in table("videoswin", "pipeline_torchvision", "frame_index_table"):
        num_frames, fps, length, _, _, clips = numbers
        assert isinstance(expected, dict)
        found = resampled_windows_looped(int(num_frames), int(length), 1, int(clips), fps)
        if expected["n_clips"]:
            assert found.tolist() == expected["frame_inds"], numbers
        else:
            assert found.tolist() == [[2 * (i % 20) for i in range(32)]] * 12


def test_torchvision_windows_equal_those_of_torchvision() -> None:
    video_utils = pytest.importorskip("torchvision.datasets.video_utils")
    torch = pytest.importorskip("torch")
    for fps in (12.5, 15.0, 24000 / 1001, 25.0, 28.0, 29.97, 30.0, 59.94, 60.0):
        for num_frames in (150, 299, 300, 301, 1799):
            windows, _ = video_utils.VideoClips.compute_clips_for_video(
                torch.arange(num_frames), 32, 1, fps, 15
            )
            for clips in (2, 5, 12):
                chosen = torch.linspace(0, len(windows) - 1, clips).floor().long()
                found = resampled_windows_looped(num_frames, 32, 1, clips, fps)
                assert found.tolist() == windows[chosen].tolist(), (fps, num_frames, clips)


def test_scenic_clips_are_upstreams() -> None:
    for (num_frames, length, stride), expected in table("vivit", "sampling_scenic", "table"):
        assert isinstance(expected, dict)
        for clips, rows in ((4, expected["linspace4"]), (1, [expected["middle"]])):
            found = dense_loop_linspace(int(num_frames), int(length), int(stride), clips, 30.0)
            assert found.tolist() == rows, (num_frames, length, stride)


def test_xvit_clips_are_upstreams() -> None:
    for numbers, expected in table("xvit", "sampling_frame_indices"):
        num_frames, length, *rest = (int(n) for n in numbers)
        if len(rest) == 3:
            rate, view, views = rest
            found = dense_clamped(num_frames, length, rate, views, 30.0)[view]
        else:
            # The name of the dataset ends in a digit, which is the first of the numbers.
            num_frames, length, view = length, *rest
            found = segment_positions(num_frames, length, 1, 3, 30.0)[view]
        assert found.tolist() == expected, numbers


def test_linspace_is_rounded_half_to_even() -> None:
    assert uniform_linspace(280, 32, 1, 1, 30.0)[0].tolist() == list(range(0, 280, 9))
    assert uniform_linspace(4, 7, 1, 1, 30.0)[0].tolist() == [0, 0, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_rule_stays_inside_every_video(name: str) -> None:
    for num_frames in (1, 2, 5, 31, 32, 63, 64, 65, 255, 256, 257, 3001):
        for clips in (1, 2, 3, 4, 10, 12):
            if clips > MOST_CLIPS.get(name, clips):
                continue
            for fps in (15.0, 29.97, 240.0):
                found = SAMPLERS[name](num_frames, 16, 4, clips, fps)
                assert found.shape == (clips, 16)
                assert found.dtype == np.int64
                assert 0 <= found.min() <= found.max() < num_frames


def test_a_single_clip_is_centered_except_where_upstream_starts_at_frame_0() -> None:
    starts = {
        name: SAMPLERS[name](300, 32, 2, 1, 15.0)[0, 0]
        for name in SAMPLERS
        if name.startswith("dense") or name.startswith("resampled")
    }
    assert starts == {
        "dense_loop_segment_centers": 118,
        "dense_loop_endpoints": 118,
        "dense_loop_linspace": 118,
        "dense_clamped": 0,
        "resampled_windows_looped": 134,
    }


@pytest.mark.parametrize(("name", "most"), MOST_CLIPS.items())
def test_a_rule_with_few_clips_refuses_more(name: str, most: int) -> None:
    with pytest.raises(UsageError, match=f"at most {most}"):
        SAMPLERS[name](300, 16, 1, most + 1, 30.0)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_sampling_by_time_needs_a_frame_rate(fps: float) -> None:
    with pytest.raises(InputError, match="frame rate"):
        resampled_windows_looped(300, 32, 1, 1, fps)
