"""The pictures of an explanation: what counts for a class, over the frames that the model saw.

As .png (all frames and the importance of each), .mp4 (one after the other) or .html.

Shape legend: T frames, H height, W width.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import UsageError
from vtcli.inference.explain import Explanation
from vtcli.report.pages import data_uri, render_page, write_page
from vtcli.runtime.files import atomic_write
from vtcli.runtime.words import percent
from vtcli.video.heat import OPACITY, SATURATION, enlarged, heat_color

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".mp4", ".html")
_LEAST_SIDE, _COLUMNS, _BAR = 160, 8, 32  # pixels, frames in a row, height of the strip


def check_output(path: Path) -> None:
    """Raise `UsageError` for a file that no picture is written to."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"an explanation is a .png, .mp4 or .html file, not {path}; rename it")


def write_explanation(explanation: Explanation, path: Path) -> None:
    """Write the pictures in the format of the file's extension."""
    check_output(path)
    suffix = path.suffix.lower()
    if suffix == ".html":
        _write_html(explanation, path)
        return
    with atomic_write(path) as part:
        if suffix == ".png":
            _sheet(explanation).save(part, format="png")
        else:
            _write_mp4(explanation, part)


def heat_frames(explanation: Explanation) -> list[Image]:
    """The frames, enlarged where they are small, with the relevance in yellow to red."""
    from PIL import Image

    scale = -(-_LEAST_SIDE // explanation.frames.shape[1])
    side = scale * explanation.frames.shape[1]
    pictures = []
    for frame_HW3, cells_GG in zip(explanation.frames, explanation.heat, strict=True):
        picture = Image.fromarray(frame_HW3).resize((side, side), Image.Resampling.BICUBIC)
        heat_HW = enlarged(cells_GG, side, side)
        pictures.append(Image.fromarray(_blended(np.asarray(picture), heat_HW)))
    return pictures


def _blended(frame_HW3: NDArray[np.uint8], heat_HW: NDArray[Any]) -> NDArray[np.uint8]:
    gray_HW1 = frame_HW3.mean(-1, keepdims=True)
    calm_HW3 = SATURATION * frame_HW3 + (1 - SATURATION) * gray_HW1
    alpha_HW1 = OPACITY * heat_HW[..., None]
    return ((1 - alpha_HW1) * calm_HW3 + alpha_HW1 * heat_color(heat_HW)).round().astype(np.uint8)


def _strip(explanation: Explanation, width: int, current: int | None = None) -> Image:
    """A bar per frame as high as its importance; the current one is red."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (width, _BAR), "#14181f")
    draw = ImageDraw.Draw(strip)
    importance_T = explanation.frame_importance
    count, highest = len(importance_T), max(float(importance_T.max()), 1e-12)
    for number, share in enumerate(importance_T.tolist()):
        left, right = number * width // count, (number + 1) * width // count - 2
        top = _BAR - 1 - round((_BAR - 4) * share / highest)
        color = "#ff5a36" if number == current else "#f0c040"
        draw.rectangle([left, top, max(left, right), _BAR - 1], fill=color)
    return strip


def _sheet(explanation: Explanation) -> Image:
    """All frames in rows, and the strip below them."""
    from PIL import Image

    pictures = heat_frames(explanation)
    side = pictures[0].width
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side + _BAR))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * side, number // columns * side))
    sheet.paste(_strip(explanation, sheet.width), (0, rows * side))
    return sheet


def _write_mp4(explanation: Explanation, path: Path) -> None:
    from fractions import Fraction

    import av
    from PIL import Image

    pictures = heat_frames(explanation)
    seconds = max(explanation.info.duration, 0.04 * len(pictures))
    rate = Fraction(len(pictures) / seconds).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        side = pictures[0].width + pictures[0].width % 2
        stream.width, stream.height, stream.pix_fmt = side, side + _BAR, "yuv420p"
        for number, picture in enumerate(pictures):
            whole = Image.new("RGB", (side, side + _BAR))
            whole.paste(picture, (0, 0))
            whole.paste(_strip(explanation, side, number), (0, side))
            container.mux(stream.encode(av.VideoFrame.from_image(whole)))
        container.mux(stream.encode())


def _write_html(explanation: Explanation, path: Path) -> None:
    frames = []
    rows = zip(
        heat_frames(explanation), explanation.times, explanation.frame_importance, strict=True
    )
    for picture, time, share in rows:
        file = io.BytesIO()
        picture.save(file, format="jpeg", quality=88)
        frames.append(
            {
                "uri": data_uri(file.getvalue()),
                "time": f"{time:.2f} s",
                "importance": float(share),
            }
        )
    text = render_page(
        "explanation.html.j2",
        title=f"Why {explanation.label}?",
        path=explanation.path,
        lines=in_words(explanation),
        frames=frames,
    )
    write_page(text, path)


def in_words(explanation: Explanation) -> list[str]:
    """The result in three lines: the score, its check, the most important frames."""
    d, importance_T = explanation.deletion, explanation.frame_importance
    best = sorted(np.argsort(-importance_T, kind="stable")[:3].tolist())
    times = ", ".join(f"{explanation.times[n]:.2f} s" for n in best)
    verdict = "" if d.is_faithful else " (the check fails: other parts matter as much)"
    return [
        f"{explanation.label}: {percent(d.score)}%",
        f"without the most important tenth {percent(d.without_important)}%, without a random tenth "
        f"{percent(d.without_random)}%{verdict}",
        f"most important frames: {times} ({percent(float(importance_T[best].sum()))}% of all)",
    ]
