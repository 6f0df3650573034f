"""Reads clips with another package, for `benchmarks/video.py --peers`: one process per package.

Each line of standard input is a JSON request: the file, the frames of each view, height and width
of the resized frames, and the corner of each crop. The answer is the CPU time, with that of child
processes, from opening the file to all views as normalized float32 [3,T,S,S].
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1, 1)


def torchcodec_frames(path: str, numbers: Sequence[int], size: tuple[int, int]) -> Tensor:
    """uint8 [N,3,H,W]: torchcodec decodes, torchvision resizes."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1)
    return _resized(decoder.get_frames_at(list(numbers)).data, size)


def decord_frames(path: str, numbers: Sequence[int], size: tuple[int, int]) -> Tensor:
    """uint8 [N,3,H,W]: decord decodes, torchvision resizes."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    frames = torch.from_numpy(reader.get_batch(list(numbers)).asnumpy())
    return _resized(frames.permute(0, 3, 1, 2), size)


def ffmpeg_frames(path: str, numbers: Sequence[int], size: tuple[int, int]) -> Tensor:
    """uint8 [N,3,H,W]: the command decodes, selects and resizes."""
    height, width = size
    chosen = "+".join(f"eq(n\\,{number})" for number in numbers)
    words = ["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-fps_mode", "passthrough"]
    words += ["-vf", f"select={chosen},scale={width}:{height}:flags=bilinear"]
    words += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    frames = np.frombuffer(bytearray(done.stdout), np.uint8).reshape(-1, height, width, 3)
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _resized(frames_N3HW: Tensor, size: tuple[int, int]) -> Tensor:
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(frames_N3HW, list(size), antialias=True)
    return resized


PEERS: dict[str, Callable[[str, Sequence[int], tuple[int, int]], Tensor]] = {
    "torchcodec": torchcodec_frames,
    "decord": decord_frames,
    "ffmpeg": ffmpeg_frames,
}


def read(frames_of: Callable[..., Tensor], request: dict[str, Any]) -> list[Tensor]:
    """All views of a request: float32 [3,T,S,S] each."""
    numbers = sorted({number for view in request["views"] for number in view})
    row_of = {number: row for row, number in enumerate(numbers)}
    frames_N3HW = frames_of(request["path"], numbers, tuple(request["size"]))
    side, clips = request["crop"], []
    for view, (top, left) in zip(request["views"], request["corners"], strict=True):
        crop = frames_N3HW[[row_of[n] for n in view], :, top : top + side, left : left + side]
        clips.append((crop.permute(1, 0, 2, 3).float() - MEAN) / STD)
    return clips


def cpu_seconds() -> float:
    """Of this process and of its children that ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def main() -> None:
    frames_of = PEERS[sys.argv[1]]
    torch.set_num_threads(1)
    with torch.inference_mode():
        for line in sys.stdin:
            start = cpu_seconds()
            clips = read(frames_of, json.loads(line))
            print(json.dumps([cpu_seconds() - start, len(clips)]), flush=True)


if __name__ == "__main__":
    main()
