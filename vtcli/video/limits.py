"""Limits of the memory and time that one file may cost, checked before its frames are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vtcli.errors import VideoDecodeError
from vtcli.video.remote import RemotePath

# Any file may decode to these.
_FREE_PIXELS = 2_000_000_000


@dataclass(frozen=True)
class Limits:
    """Limits that are checked before frames are decoded; VideoDecodeError `limit` above them."""

    max_pixels: int = 36_000_000
    max_frames: int = 1_000_000
    max_bytes: int = 2 * 2**30
    max_pixels_per_byte: int = 100_000


DEFAULT_LIMITS = Limits()


def check_cost(path: Path, pixels: int, limits: Limits) -> None:
    """Raise VideoDecodeError `limit` for so many pixels in few bytes that it would take minutes.

    Even a screen that never changes needs more bytes than that.
    """
    if isinstance(path, RemotePath):
        return  # the time limit of the decode process bounds it
    allowed = _FREE_PIXELS + limits.max_pixels_per_byte * path.stat().st_size
    if pixels > allowed:
        raise VideoDecodeError(
            path,
            "limit",
            f"decodes to {pixels / 1e9:.1f} gigapixels, too many for a file of "
            f"{path.stat().st_size} bytes; scale the video down first",
        )


def check_size(path: Path, width: int, height: int, limits: Limits) -> None:
    """Raise VideoDecodeError `limit` for frames that need too much memory to decode."""
    if width * height > limits.max_pixels:
        raise VideoDecodeError(
            path,
            "limit",
            f"has frames of {width}x{height}, more than {limits.max_pixels / 1e6:.0f} megapixels; "
            "scale the video down first",
        )
