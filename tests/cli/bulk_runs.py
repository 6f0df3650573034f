"""Folders of tiny videos, and bulk runs over them in processes that tests can kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import tiny
from tests.forked import Forked
from vtcli.runtime.rows import read_rows

MODEL = "uniformerv2-nano"
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"),
    *("-m", "vtcli"),
)
VALUES = ("path", "size", "indices", "labels", "scores", "frames", "reason", "error")
"""Columns that do not depend on when a row was computed."""


def folder_of(folder: Path, files: int, junk: int = 7) -> Path:
    """`files` tiny videos of ten different contents; every `junk`-th is not one."""
    folder.mkdir()
    clips = [tiny.video(folder / f"{n}.mp4", 8 + n, seed=n) for n in range(10)]
    for number in range(files):
        target = folder / f"clip{number:03d}.mp4"
        if number % junk == junk - 1:
            target.write_bytes(b"junk" * number)
        else:
            shutil.copy(clips[number % 10], target)
    for clip in clips:
        clip.unlink()
    return folder


def start(words: list[str], launcher: tuple[str, ...] = ()) -> Forked | subprocess.Popen[str]:
    """A `vt` command in a process of its own group, or started by a launcher."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not launcher:
        return Forked(words, environ)
    return subprocess.Popen(
        [*launcher, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environ,
    )


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The rows of all complete parts, in order."""
    return [row for path in sorted(run.glob("part-*")) for row in read_rows(path)]


def values_of(run: Path) -> dict[str, dict[str, Any]]:
    """By path, what must be the same in every run over the same videos; each has one row."""
    rows = rows_of(run)
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: {name: row.get(name) for name in VALUES} for row in rows}


def kept_rows(run: Path) -> dict[str, dict[str, Any]]:
    """Rows that a killed run has stored, in complete parts and in journals."""
    rows = {row["path"]: row for row in rows_of(run)}
    for path in run.glob("_vt/*.journal"):
        with suppress(FileNotFoundError):  # its part has just been finished
            lines = path.read_bytes().split(b"\n")[:-1]
            rows |= {row["path"]: row for row in map(json.loads, lines)}
    return rows
