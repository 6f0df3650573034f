"""Freed memory is kept for the next allocations, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import vtcli
from vtcli.runtime import memory
from vtcli.runtime.memory import SETTINGS, _has_glibc

# Pages that are new when blocks of 24 MB are allocated, filled and freed again and again.
CODE = """
import resource, sys
from vtcli.runtime.memory import keep_freed_memory

assert keep_freed_memory() is (sys.argv[1] == "kept")
bytearray(b"x") * (24 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(b"x") * (24 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(environment: dict[str, str], expected: str) -> int:
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", CODE, expected]
    done = subprocess.run(
        command, env=env | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not _has_glibc(), reason="the settings are those of glibc")
def test_freed_memory_is_used_again_unless_the_environment_decides() -> None:
    kept = new_pages({}, "kept")
    returned = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    assert 4 * kept < new_pages(returned, "left")


@pytest.mark.skipif(not _has_glibc(), reason="the settings are those of glibc")
def test_a_program_keeps_memory_once_a_network_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(memory, "_when_loaded", False)
    vtcli.load_model("vivit-nano")
    assert not kept  # a library decides nothing
    memory.keep_freed_memory_when_loaded()
    assert not kept
    vtcli.load_model("vivit-nano")
    assert kept


def test_other_systems_are_left_as_they_are() -> None:
    code = (
        "import os; del os.confstr\n"
        "from vtcli.runtime.memory import keep_freed_memory\n"
        "assert not keep_freed_memory()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
