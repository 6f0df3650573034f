"""Build hook of hatchling: compiles vtcli/models/native_attention.c for Linux on x86-64.

Without a C compiler, or with `CC=false`, the package is built without the kernel, which is then
computed by PyTorch. The library needs glibc 2.17 alone: intrinsics are chosen by function, OpenMP
is that of PyTorch.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("vtcli/models/native_attention.c")
LIBRARY = SOURCE.with_name("_native_attention.so")
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fPIC", "-shared")
SECONDS = 120
TAG = "py3-none-manylinux_2_17_x86_64"


class NativeAttentionHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library into the tree, from where wheels and editable installs take it."""
        if self.target_name != "wheel":
            return
        library = Path(self.root, LIBRARY)
        library.unlink(missing_ok=True)
        if reason := why_not(Path(self.root, SOURCE), library):
            self.app.display_warning(f"built without {LIBRARY.name}: {reason}")
            return
        build_data["artifacts"].append(f"/{LIBRARY.as_posix()}")
        build_data["pure_python"] = False
        build_data["tag"] = TAG


def why_not(source: Path, library: Path) -> str:
    """Compile; the reason if that is not possible, else ""."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "it is written for Linux on x86-64"
    if platform.libc_ver()[0] != "glibc":
        return "it needs glibc"
    # Renamed at the end: a process that has the old library loaded keeps it.
    draft = library.with_suffix(f".{os.getpid()}")
    command = [*shlex.split(os.environ.get("CC") or "cc"), *FLAGS, str(source), "-o", str(draft)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return f"{shlex.join(command)}: {lines[0]}"
    draft.replace(library)
    return ""
