"""From a file to clips, by stage: python benchmarks/video.py [--other TREE | --peers] [--rounds N]

H.264 (`--codec hevc`: H.265) clips of 340x256, 1280x720 and 1920x1080 are written once. In each
round, a process of this tree, and one of another tree if that is given, read a clip in turn, for
each pipeline with 1x1 and with its most views. Printed is the CPU time on one thread in
milliseconds, the minimum over the rounds: to open the file, to decode the frames, to resize them,
to crop and normalize; and other / this.

With `--peers`, torchcodec and decord with torchvision's resizing, and the ffmpeg command, read the
same frames and cut the same views in turn (`video_peers.py`); printed are their times / ours. Their
resizing is not that of the published pipelines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = ((340, 256), (1280, 720), (1920, 1080))
FRAMES = 128
# The most views that are measured; the sampling of vivit-hf has one clip.
PIPELINES = {
    "videoswin-kinetics": (4, 3),
    "vivit-kinetics": (4, 3),
    "vivit-hf": (1, 3),
    "uniformerv2-something": (1, 3),
}
PEER_PIPELINE = "videoswin-kinetics"
STAGES = ("open", "decode", "resize", "crop, normalize")
MEASURE = """
import json, sys, time
import torch
from vtcli.video.frame_source import open_frame_source
from vtcli.video.held import opened_once
from vtcli.video.pipeline import plan_views
from vtcli.video.views import views_from_parts
from vtcli.weights.registry import load_registry
torch.set_num_threads(1)

def stages(path, name, clips, crops):
    pipeline = load_registry().pipelines[name]
    yield
    source = open_frame_source(path)
    views = plan_views(pipeline, source.frames, source.fps, clips, crops)
    numbers = sorted({index for view in views for index in view.frame_indices})
    yield
    parts = TimedParts(source.parts(numbers))
    tensors = views_from_parts(parts, numbers, pipeline, views)
    yield parts.seconds
    for tensor in tensors:
        pass
    yield

class TimedParts:
    # Parts are resized one by one, as they are decoded; `seconds` is what decoding took.
    def __init__(self, parts):
        self.parts, self.seconds = parts, 0.0

    def __iter__(self):
        return self

    def __next__(self):
        began = time.process_time()
        try:
            return next(self.parts)
        finally:
            self.seconds += time.process_time() - began

for line in sys.stdin:
    times, decoding = [], 0.0
    with opened_once():
        for seconds in stages(*json.loads(line)):
            times.append(time.process_time())
            decoding = seconds or decoding
    opening, both, cropping = (end - start for start, end in zip(times, times[1:]))
    print(json.dumps([opening, decoding, both - decoding, cropping]), flush=True)
"""


def write_clip(path: Path, size: tuple[int, int], codec: str = "h264") -> None:
    """A moving texture, so that frames differ and do not compress to nothing."""
    import av
    import numpy as np

    width, height = size
    noise = np.random.RandomState(0).randint(0, 256, (height // 8 + 20, width // 8 + 20, 3))
    texture = noise.astype(np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        encoder, options = {
            "h264": ("libx264", {"preset": "veryfast"}),
            "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
        }[codec]
        stream = container.add_stream(encoder, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES):
            shift = number % 20
            frame_HWC = np.ascontiguousarray(texture[shift:, 2 * shift :][:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))


class Reader:
    """A process that answers lines of JSON, with the code of a tree or that of a peer."""

    def __init__(self, tree: Path, peer: str = "") -> None:
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        script = [str(Path(__file__).with_name("video_peers.py")), peer]
        words = [sys.executable, *(script if peer else ("-c", MEASURE))]
        self.process = subprocess.Popen(
            words, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def ask(self, request: object) -> list[float]:
        """The answer to a request: seconds of CPU time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return [float(seconds) for seconds in json.loads(self.process.stdout.readline())]

    def measure(self, clip: Path, pipeline: str, views: tuple[int, int]) -> list[float]:
        """Seconds of CPU time per stage."""
        return self.ask([str(clip), pipeline, *views])


def request_of(clip: Path, name: str, clips: int, crops: int) -> dict[str, Any]:
    """What a peer is asked to read: the frames, the size and the crops of our views."""
    from vtcli.video.frame_source import open_frame_source
    from vtcli.video.pipeline import plan_views
    from vtcli.video.transforms import RESIZE_RULES, crop_corners
    from vtcli.weights.registry import load_registry

    p, source = load_registry().pipelines[name], open_frame_source(clip)
    views = plan_views(p, source.frames, source.fps, clips, crops)
    width, height = map(int, clip.stem.split("x"))
    size = p.resize_to or RESIZE_RULES[p.resize].size(height, width, p.short_side)
    corners = crop_corners(size, p.crop_size, p.crop_offset, p.crop_order, crops)
    return {
        "path": str(clip),
        "views": [[int(index) for index in view.frame_indices] for view in views],
        "size": size,
        "corners": [corners[view.crop] for view in views],
        "crop": p.crop_size,
    }


def compare_with_peers(folder: Path, args: argparse.Namespace) -> None:
    """Print a line per clip and views: our time, and how many times as long each peer takes."""
    tree = Path(__file__).resolve().parents[1]
    readers = {name: Reader(tree, name) for name in ("", "torchcodec", "decord", "ffmpeg")}
    print("| clip | views | ours | torchcodec | decord | ffmpeg |\n|---|---|---|---|---|---|")
    for size in SIZES:
        clip = folder / f"{size[0]}x{size[1]}.mp4"
        write_clip(clip, size, args.codec)
        for views in ((1, 1), (4, 3)):
            request = request_of(clip, PEER_PIPELINE, *views)
            best = dict.fromkeys(readers, float("inf"))
            for _ in range(args.rounds):
                for name, reader in readers.items():
                    if name:
                        seconds = reader.ask(request)[0]
                    else:
                        seconds = sum(reader.measure(clip, PEER_PIPELINE, views))
                    best[name] = min(best[name], seconds)
            ours = best.pop("")
            ratios = [f"{seconds / ours:.2f}x" for seconds in best.values()]
            label, first = f"{views[0]}x{views[1]}", f"{1000 * ours:.1f} ms"
            print("|", " | ".join((clip.stem, label, first, *ratios)), "|", flush=True)
    for reader in readers.values():
        reader.process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--other", type=Path, help="another tree to compare with")
    parser.add_argument("--peers", action="store_true", help="compare with other packages")
    parser.add_argument("--codec", choices=("h264", "hevc"), default="h264")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.peers:
        with tempfile.TemporaryDirectory() as folder:
            compare_with_peers(Path(folder), args)
        return
    trees = [Path(__file__).resolve().parents[1]] + ([args.other] if args.other else [])
    readers = [Reader(tree) for tree in trees]
    print("| clip | pipeline | views | " + " | ".join((*STAGES, "all")) + " |")
    print("|---|---|---|" + "---|" * (len(STAGES) + 1))
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            clip = Path(folder) / f"{size[0]}x{size[1]}.mp4"
            write_clip(clip, size, args.codec)
            for pipeline, most in PIPELINES.items():
                for views in ((1, 1), most):
                    best = [[float("inf")] * len(STAGES) for _ in trees]
                    for _ in range(args.rounds):
                        for n, reader in enumerate(readers):
                            times = reader.measure(clip, pipeline, views)
                            best[n] = [min(pair) for pair in zip(best[n], times, strict=True)]
                    columns = [[*row, sum(row)] for row in best]
                    cells = [
                        f"{1000 * values[0]:.1f}"
                        + (f" (x{values[1] / max(values[0], 1e-6):.2f})" if len(trees) > 1 else "")
                        for values in zip(*columns, strict=True)
                    ]
                    label = f"{views[0]}x{views[1]}"
                    print("|", " | ".join((clip.stem, pipeline, label, *cells)), "|", flush=True)
    for reader in readers:
        reader.process.kill()


if __name__ == "__main__":
    main()
