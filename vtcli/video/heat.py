"""A heat map over the frames of a video: yellow to red where something is strong.

Shape legend: T times, G cells along a side of the map, H height, W width of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OPACITY = 0.65
"""Of the strongest color."""
SATURATION = 0.5
"""Of the frame, so that the colors stand out."""


def heat_color(heat_HW: NDArray[Any]) -> NDArray[Any]:
    """The color [H,W,3] of a strength from 0 to 1: yellow to red, 0 to 255."""
    return np.stack([np.full_like(heat_HW, 255), 230 * (1 - heat_HW), 0 * heat_HW], -1)


def enlarged(cells_GG: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """A map of cells, interpolated to [H,W]."""
    picture = Image.fromarray(cells_GG.clip(0, 1).astype(np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)


@dataclass(frozen=True)
class HeatMap:
    """The strength [T,G,G] of each cell, 0 to 1, at `times` in seconds, in a part of the frame.

    `box`: top, left, bottom and right of that part, as fractions of the frame. Between two times
    the map is interpolated.
    """

    times: NDArray[np.float64]
    strength: NDArray[np.float64]
    box: tuple[float, float, float, float]

    def at(self, seconds: float) -> NDArray[np.float64]:
        """The map [G,G] at a time."""
        place = float(np.interp(seconds, self.times, np.arange(len(self.times))))
        low = int(place)
        high = min(low + 1, len(self.times) - 1)
        part = place - low
        between: NDArray[np.float64] = (1 - part) * self.strength[low] + part * self.strength[high]
        return between

    def draw(self, planes: Sequence[NDArray[np.uint8]], seconds: float) -> None:
        """Blend the map at a time into luma [H,W] and chroma [H/2,W/2], in place (BT.601)."""
        cells_GG = self.at(seconds)
        for number, plane in enumerate(planes):
            if number:
                plane[:] = np.rint(128 + SATURATION * (plane - 128.0))
            height, width = plane.shape
            top, bottom = (round(edge * height) for edge in self.box[::2])
            left, right = (round(edge * width) for edge in self.box[1::2])
            heat_HW = enlarged(cells_GG, right - left, bottom - top)
            color_HW = _LUMA_AND_CHROMA[number] @ np.moveaxis(heat_color(heat_HW), -1, -2)
            color_HW += (16, 128, 128)[number]
            part = plane[top:bottom, left:right]
            part[:] = np.rint(part + OPACITY * heat_HW * (color_HW - part))


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps with the time each is drawn, start to end in seconds; nothing elsewhere."""

    parts: Sequence[tuple[float, float, HeatMap]]

    def draw(self, planes: Sequence[NDArray[np.uint8]], seconds: float) -> None:
        """As `HeatMap.draw`."""
        for start, end, heat in self.parts:
            if start <= seconds < end:
                heat.draw(planes, seconds)
                return


# Rec. ITU-R BT.601, from full-range RGB to limited-range Y'CbCr.
_LUMA_AND_CHROMA = (
    np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
    / 255
)
