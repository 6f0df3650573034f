"""The callback by which long work reports its progress; who shows it, and where, is not its job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

ProgressCallback: TypeAlias = Callable[[str, int, "int | None"], None]
"""Called with the name of the item (a file, a video), the steps done, and all steps; None where
their number is not known. A step is a byte of a download, a video, a window or a frame.
"""
