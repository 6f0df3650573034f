"""Draws the labels of segments into a video, which is written as MP4 with H.264.

A label is in a translucent box in the lower left corner, with its score next to it and as a bar
below. A box is rendered once and blended into the luma plane, so that the colors of the frame need
no conversion.

Shape legend: H height, W width of the frame; h, w of the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vtcli.errors import DataError
from vtcli.video import TIME_EPS
from vtcli.video.backends_pyav import decode_all
from vtcli.video.container import open_video, packets
from vtcli.video.heat import HeatMap, HeatMaps
from vtcli.video.mp4 import H264, open_mp4
from vtcli.video.orientation import quarter_turns, upright
from vtcli.video.probe import VideoInfo
from vtcli.video.sequential import frame_times

Planes: TypeAlias = list[NDArray[np.uint8]]
"""Luma [H, W] and two chroma planes [H/2, W/2], as H.264 stores a frame (4:2:0, 16 to 235)."""

# Audio codecs that MP4 supports.
_MP4_AUDIO = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})
_MIN_MP3_RATE = 16_000
# libav's constants for RGB colors, and for luma of 16 to 235.
_RGB, _LIMITED_RANGE = 0, 1

# Text height as a fraction of the frame's short side, and the smallest legible one in pixels.
_TEXT_FRACTION = 1 / 26
_MIN_TEXT_HEIGHT = 14
# Gray level and opacity, both of 255.
_BOX, _LABEL, _PERCENT, _BAR, _TRACK = (0, 165), (255, 255), (200, 255), (255, 230), (255, 60)
# Pillow's built-in font covers little more than ASCII; these cover more, where one is installed.
_SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf"),
    # Chinese, Japanese and Korean: Linux, macOS, Windows.
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSans-Regular.ttc"),
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf"),
    *("uming.ttc", "ipag.ttf", "ipagp.ttf", "TakaoPGothic.ttf", "NanumGothic.ttf"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "STHeiti Medium.ttc"),
    *("msyh.ttc", "simsun.ttc", "msgothic.ttc", "YuGothM.ttc", "malgun.ttf"),
)


class Caption(Protocol):
    """A label to draw with its probability, from `start` to `end` in seconds."""

    @property
    def start(self) -> float: ...

    @property
    def end(self) -> float: ...

    @property
    def label(self) -> str: ...

    @property
    def score(self) -> float: ...


def annotate(
    info: VideoInfo,
    captions: Sequence[Caption],
    output: Path,
    on_frame: Callable[[str, int, int], None] | None = None,
    heat: HeatMap | HeatMaps | None = None,
) -> None:
    """Write the video with its captions to `output`, upright, with the same size and frame times.

    A side with an odd number of pixels becomes one longer, as H.264 requires. The audio is copied
    where MP4 supports it. `heat` is drawn below the captions. `on_frame` is called with the
    output's name, the number of frames written and the number of all frames. Raises
    VideoDecodeError where a frame cannot be decoded, OSError where the file cannot be written and
    DataError where it cannot be encoded.
    """
    try:
        with (
            open_video(info.path) as (source, source_video),
            open_mp4(output) as target,
        ):
            draw = heat.draw if heat else None
            for frames in _write(info, captions, draw, source, source_video, target):
                if on_frame:
                    on_frame(str(output), frames, info.frames)
    except OSError:
        raise
    except av.error.FFmpegError as error:
        raise DataError(
            f"{info.path}: cannot be written as MP4 ({error}); convert it to H.264 in MP4 first"
        ) from error


def _write(
    info: VideoInfo,
    captions: Sequence[Caption],
    draw: Callable[[Planes, float], None] | None,
    source: InputContainer,
    source_video: VideoStream,
    target: OutputContainer,
) -> Iterator[int]:
    """The number of frames written so far, after each frame."""
    times_F, tick = frame_times(info), source_video.time_base
    assert tick is not None
    video = _add_video(info, source_video, target)
    audio = _AudioCopy(info, source, tick, target)
    for position, decoded in decode_all(info):
        seconds = float(times_F[position])
        audio.copy_until(seconds)
        planes = _upright_planes(decoded, video.width, video.height, info.mirrored)
        if draw is not None:
            draw(planes, seconds)
        for caption in captions:
            if caption.start - TIME_EPS <= seconds < caption.end - TIME_EPS:
                _blend(planes, _box(caption.label, caption.score, video.width, video.height))
        frame = _frame(planes)
        frame.pts, frame.time_base = round(seconds / tick), tick
        target.mux(video.encode(frame))
        yield position + 1
    target.mux(video.encode(None))
    audio.copy_until(float("inf"))


def _add_video(info: VideoInfo, source: VideoStream, target: OutputContainer) -> VideoStream:
    rate = source.average_rate or source.guessed_rate
    video = target.add_stream("libx264", rate=rate, options=dict(H264))
    assert isinstance(video, VideoStream)
    video.width, video.height = info.width + info.width % 2, info.height + info.height % 2
    video.pix_fmt = "yuv420p"
    assert source.time_base is not None
    video.time_base = source.time_base
    into, context = video.codec_context, source.codec_context
    into.time_base = source.time_base
    ratio = source.sample_aspect_ratio
    if ratio:
        into.sample_aspect_ratio = 1 / ratio if info.rotation % 180 else ratio
    into.color_range = _LIMITED_RANGE
    if context.colorspace != _RGB:
        into.colorspace = context.colorspace
        into.color_primaries, into.color_trc = context.color_primaries, context.color_trc
    return video


def _fits_mp4(context: Any) -> bool:
    name = context.codec.canonical_name
    # Below 16 kHz MP3 is MPEG-2.5, which libav does not write to MP4.
    return name in _MP4_AUDIO and not (name == "mp3" and context.sample_rate < _MIN_MP3_RATE)


class _AudioCopy:
    """Copies the best audio stream of a file in parts; nothing where MP4 does not support it."""

    def __init__(
        self, info: VideoInfo, source: InputContainer, tick: Fraction, target: OutputContainer
    ) -> None:
        index = info.index
        assert index is not None
        self._begin = int(index.pts[0]) * tick if len(index.pts) else Fraction(0)
        self._target = target
        self._packets: Iterator[Packet] = iter(())
        stream: Any = source.streams.best("audio")
        context = None if stream is None else stream.codec_context
        if context is not None and _fits_mp4(context):
            self._stream = target.add_stream_from_template(stream)
            self._packets = packets(source, stream)
        self._next = next(self._packets, None)

    def copy_until(self, seconds: float) -> None:
        """Copy the audio up to this time after the first frame."""
        while (packet := self._next) is not None and packet.dts is not None:
            shift = round(self._begin / packet.time_base)
            if (packet.dts - shift) * packet.time_base > seconds:
                return
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = self._stream
            self._target.mux(packet)
            self._next = next(self._packets, None)


def draw_caption(picture: Image.Image, label: str, score: float) -> Image.Image:
    """A copy of an RGB picture with a label and its score in the lower left corner."""
    width, height = picture.size
    box, margin = _label_box(label, score, width, height)
    drawn = picture.copy()
    gray, opacity = box.split()
    drawn.paste(Image.merge("RGB", [gray] * 3), (margin, height - margin - box.height), opacity)
    return drawn


def _upright_planes(frame: VideoFrame, width: int, height: int, mirrored: bool) -> Planes:
    """A decoded frame at this (even) size, turned upright."""
    turns = quarter_turns(frame)
    stored_w, stored_h = (height, width) if turns % 2 else (width, height)
    stored = frame.reformat(stored_w, stored_h, "yuv420p", dst_color_range="MPEG")
    flat = stored.to_ndarray().reshape(-1)
    ends = [stored_w * stored_h, stored_w * stored_h * 5 // 4]
    planes = np.split(flat, ends)
    shapes = [(stored_h, stored_w), *[(stored_h // 2, stored_w // 2)] * 2]
    return [
        upright(plane.reshape(shape), turns, mirrored)
        for plane, shape in zip(planes, shapes, strict=True)
    ]


def _frame(planes: Planes) -> VideoFrame:
    height, width = planes[0].shape
    flat = np.concatenate([plane.reshape(-1) for plane in planes])
    return VideoFrame.from_ndarray(flat.reshape(height * 3 // 2, width), format="yuv420p")


@dataclass(frozen=True)
class _Box:
    """A rendered label at pixel `top`, `left`; these and its sides are even.

    `gray_hw` is its luma times its opacity, `through_hw` its transparency, 0 to 1.
    """

    top: int
    left: int
    gray_hw: NDArray[np.floating[Any]]
    through_hw: NDArray[np.floating[Any]]


def _blend(planes: Planes, box: _Box) -> None:
    """Draw a box into a frame, in place."""
    gray_hw, through_hw = box.gray_hw, box.through_hw
    for plane, scale in zip(planes, (1, 2, 2), strict=True):
        height, width = (side // scale for side in through_hw.shape)
        top, left = box.top // scale, box.left // scale
        part = plane[top : top + height, left : left + width]
        if scale == 2:
            # Gray is 128 in both chroma planes.
            through = through_hw.reshape(height, 2, width, 2).mean((1, 3))
            part[:] = np.rint(128 + (part - 128.0) * through)
        else:
            part[:] = np.rint(gray_hw + part * through_hw)


@lru_cache(maxsize=64)
def _box(label: str, score: float, width: int, height: int) -> _Box:
    """The box for a frame of this size."""
    image, margin = _label_box(label, score, width, height)
    gray_hw, opacity_hw = np.moveaxis(np.asarray(image, dtype=np.float32) / 255, 2, 0)
    return _Box(
        top=max(0, height - margin - image.height) // 2 * 2,
        left=margin // 2 * 2,
        gray_hw=(16 + 219 * gray_hw) * opacity_hw,
        through_hw=1 - opacity_hw,
    )


def _label_box(label: str, score: float, width: int, height: int) -> tuple[Image.Image, int]:
    """The rendered label for a frame of this size, and its distance from the frame's sides."""
    margin = round(0.03 * min(width, height))
    text_size = max(_MIN_TEXT_HEIGHT, round(_TEXT_FRACTION * min(width, height)))
    text = " ".join(label.split()) or "…"
    return _render(text, score, text_size, width - 2 * margin, height), margin


def _render(label: str, score: float, size: int, most_w: int, most_h: int) -> Image.Image:
    """Gray level and opacity of a box with even sides of at most `most_w`, `most_h`.

    `size` is the height of the text. A label that is too long is shortened; in a narrow frame the
    percentage is left out.
    """
    font, percent = _font(label, size), f"{100 * score:.0f} %"
    pad, gap, bar = size // 2, size * 3 // 4, max(2, size // 10)
    if most_w < 12 * size:
        percent, gap = "", 0
    percent_w = math.ceil(font.getlength(percent))
    text = _shortened(label, font, most_w - 2 * pad - gap - percent_w)
    width = pad + math.ceil(font.getlength(text)) + gap + percent_w + pad
    height = pad + size + size // 3 + bar + pad
    image = Image.new("LA", (width, height), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), radius=size // 4, fill=_BOX)
    draw.text((pad, pad + size * 4 // 5), text, font=font, fill=_LABEL, anchor="ls")
    draw.text((width - pad, pad + size * 4 // 5), percent, font=font, fill=_PERCENT, anchor="rs")
    top, length = height - pad - bar, width - 2 * pad
    draw.rectangle((pad, top, width - pad - 1, top + bar - 1), fill=_TRACK)
    if round(score * length):
        filled = pad + round(score * length) - 1
        draw.rectangle((pad, top, filled, top + bar - 1), fill=_BAR)
    return image.crop((0, 0, min(width, most_w) // 2 * 2, min(height, most_h) // 2 * 2))


def _shortened(text: str, font: Any, width: float) -> str:
    """The text, shortened to this width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1].rstrip()
    return f"{text}…"


def letters_without_a_font(text: str) -> str:
    """The letters that the font for a text does not have, which become empty boxes."""
    font = _font(text, _MIN_TEXT_HEIGHT)
    there = _covered(font, text)
    return "".join(letter for letter in dict.fromkeys(text) if letter not in there)


def _font(text: str, size: int) -> Any:
    """The font that has the most of these letters; a missing one becomes an empty box."""
    fonts = [ImageFont.load_default(size), *_system_fonts(size)]
    return max(fonts, key=lambda font: len(_covered(font, text)))


def _covered(font: Any, text: str) -> set[str]:
    missing = bytes(font.getmask("\uffff"))
    return {one for one in set(text) if one.isspace() or bytes(font.getmask(one)) != missing}


@lru_cache(maxsize=8)
def _system_fonts(size: int) -> list[Any]:
    """The system fonts that are installed."""
    found = []
    for name in _SYSTEM_FONTS:
        with suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return found
