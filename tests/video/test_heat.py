"""A heat map is in the right place, at the right time, in the right colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.video.test_overlay import Caption, gray_clip
from vtcli.video import overlay
from vtcli.video.decode import probe, read_frames
from vtcli.video.heat import HeatMap
from vtcli.video.overlay import annotate, letters_without_a_font
from vtcli.video.views import center_box, clip_tensors
from vtcli.weights.registry import load_registry

PIPELINES = ("uniformerv2-kinetics", "vivit-kinetics", "videoswin-kinetics", "xvit-kinetics")


def test_the_map_is_drawn_in_its_box_and_fades_from_time_to_time(tmp_path: Path) -> None:
    source = gray_clip(tmp_path / "a.mp4", (160, 80))  # ten frames at 10 fps
    cells = np.zeros((2, 2, 2))
    cells[1, 0, 1] = 1.0  # in the second half of the video, above on the right
    heat = HeatMap(np.array([0.0, 0.8]), cells, (0.0, 0.25, 1.0, 0.75))
    annotate(probe(source), [], tmp_path / "b.mp4", heat=heat)
    frames = read_frames(tmp_path / "b.mp4", range(10)).astype(int)
    at = frames[:, 10, 110]  # inside the strongest cell
    # Opacity 0.65 of pure red over gray.
    assert at[8] == pytest.approx([0.35 * 128 + 0.65 * 255, 0.35 * 128, 0.35 * 128], abs=14)
    assert np.abs(at[0] - 128).max() <= 4
    assert (np.diff(at[:9, 0]) >= 0).all()
    assert np.abs(frames[:, :, :38] - 128).max() <= 4
    assert np.abs(frames[:, :, 122:] - 128).max() <= 4


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("size", [(256, 340), (480, 270), (97, 301)])
def test_the_box_is_what_the_center_crop_shows(name: str, size: tuple[int, int]) -> None:
    pipeline = load_registry().pipelines[name]
    height, width = size
    top, left, bottom, right = center_box(height, width, pipeline)
    frame = np.zeros((1, height, width, 3), np.uint8)
    rows = slice(round(top * height), round(bottom * height))
    columns = slice(round(left * width), round(right * width))
    frame[:, rows, columns] = 255
    (clip,) = clip_tensors(frame, pipeline, [0], 1)
    white = clip_tensors(np.full_like(frame, 255), pipeline, [0], 1)[0]
    edge = pipeline.crop_size // 16
    inside = (..., slice(edge, -edge), slice(edge, -edge))
    assert np.allclose(clip[inside], white[inside])
    # Only a ring at the border of the box is white: it is at the border of the crop.
    thick = [-(-(part.stop - part.start) // 8) for part in (rows, columns)]
    hole = (
        slice(part.start + n, part.stop - n) for part, n in zip((rows, columns), thick, strict=True)
    )
    frame[:, *hole] = 0
    (ring,) = clip_tensors(frame, pipeline, [0], 1)
    corners = (..., [edge, edge, -edge, -edge], [edge, -edge, edge, -edge])
    assert np.allclose(ring[corners], white[corners])
    assert not np.allclose(ring[inside], white[inside])


def test_letters_without_a_font_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(overlay, "_system_fonts", lambda size: [])
    assert letters_without_a_font("riding a bike, 100 %") == ""
    assert letters_without_a_font("腕 arm 腕相撲") == "腕相撲"
    annotate(probe(gray_clip(tmp_path / "a.mp4")), [Caption(0, 1, "腕相撲")], tmp_path / "b.mp4")
