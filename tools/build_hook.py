"""Build hook of wheels by hatchling: compiles vtcli/models/native_attention.c for Linux on x86-64.

Without a C compiler, or with `CC=false`, the package is built without the kernel, and PyTorch
computes attention. The library needs only glibc 2.17: instruction sets are enabled for single
functions, and OpenMP is that of PyTorch.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("vtcli/models/native_attention.c")
LIBRARY = SOURCE.with_name("_native_attention.so")
# A contracted difference of scores could exceed the maximum of the scores.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")
SECONDS = 120
TAG = "py3-none-manylinux_2_17_x86_64"


class NativeAttentionHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library for the wheel, or into the tree of an editable installation."""
        self.folder = Path(tempfile.mkdtemp())
        compiled, library = self.folder / LIBRARY.name, Path(self.root, LIBRARY)
        reason = why_not(Path(self.root, SOURCE), compiled)
        try:
            if version == "editable":
                replace(library, None if reason else compiled)
        except OSError as error:
            reason = str(error)
        if reason:
            self.app.display_warning(f"built without {LIBRARY.name}: {reason}")
            return
        if version != "editable":
            build_data["force_include"][str(compiled)] = LIBRARY.as_posix()
        build_data["pure_python"] = False
        build_data["tag"] = TAG

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self.folder)


def why_not(source: Path, library: Path) -> str:
    """Compile; the reason if that is not possible, else ""."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "it is written for Linux on x86-64"
    if platform.libc_ver()[0] != "glibc":
        return "it needs glibc"
    checksum = f"-DSOURCE_CRC32={zlib.crc32(source.read_bytes())}u"
    try:
        command = [*shlex.split(os.environ.get("CC") or "cc"), *FLAGS, checksum]
        command += [str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if "error" in line] or lines or ["no message"]
        return f"{shlex.join(command)}: exit status {done.returncode}: {errors[0]}"
    return ""


def replace(library: Path, compiled: Path | None) -> None:
    """Replace or remove a library that other processes may have loaded."""
    if compiled is None:
        library.unlink(missing_ok=True)
        return
    draft = library.with_suffix(f".{os.getpid()}")
    shutil.copy(compiled, draft)
    draft.replace(library)
