"""A film is the clips of its plan, with nothing between them, and its list says where."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vtcli.synthetic.film import NOISE, STILL, plan_film, write_film
from vtcli.synthetic.motion8 import MOTIONS
from vtcli.video.decode import probe, read_frames


def test_the_plan_is_seeded_and_balanced() -> None:
    parts = plan_film(32, seed=3)
    assert parts == plan_film(32, seed=3)
    assert parts != plan_film(32, seed=4)
    counts = Counter(part.name for part in parts)
    assert {counts[motion] for motion in MOTIONS} == {4}
    assert min(counts[STILL], counts[NOISE]) > 2
    ends = [part.first + part.frames for part in parts]
    assert [part.first for part in parts] == [0, *ends[:-1]]


def test_the_list_says_where_the_clips_are(tmp_path: Path) -> None:
    parts = write_film(tmp_path, "film", 4, seed=1)
    info = probe(tmp_path / "film.mp4")
    assert info.duration == pytest.approx(parts[-1].times[1], abs=0.01)
    with (tmp_path / "film.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [part.name for part in parts if part.is_event]
    assert [float(row["start"]) for row in rows] == pytest.approx(
        [part.times[0] for part in parts if part.is_event], abs=1e-3
    )
    noise = next(part for part in parts if part.name == NOISE)
    frames = read_frames(info.path, [noise.first, noise.first + 1]).astype(float)
    assert np.abs(frames[0] - frames[1]).mean() > 40
