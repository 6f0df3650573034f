"""`vt predict --live` for some minutes: delay, memory, and the events of the file itself.

A film in which the motion changes every few seconds is played in real time into two pipes, one of
them with --events and --save-clips, over HTTP and over RTSP (GStreamer's server, in the interpreter
PYTHON, if it is installed), at the same time.

    python benchmarks/live.py MOTION8_FOLDER [--minutes 10] [-m MODEL] [--gst PYTHON]
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from vtcli.inference.events import EventRule, find_events
from vtcli.inference.windows import Window

WINDOW = ["--window", "2s", "--stride", "1s", "-k", "8"]
STRIDE = 1.0
SECONDS_PER_CLASS = 6

RTSP = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(service=sys.argv[2], address="127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory()
source = f"filesrc location={sys.argv[1]} ! tsdemux ! h264parse"
factory.set_launch(f"( {source} ! rtph264pay name=pay0 )")
server.get_mount_points().add_factory("/film", factory)
server.attach(None)
GLib.MainLoop().run()
"""


def write_film(folder: Path, seconds: float, path: Path) -> None:
    """Clips of one class for some seconds, then of the next one, as MPEG-TS."""
    classes = sorted(f for f in (folder / "test").iterdir() if f.is_dir())
    with av.open(str(path), "w") as film:
        stream: Any = None
        number = 0
        for turn in itertools.count():
            clips = sorted(classes[turn * 5 % len(classes)].glob("*.mp4"))
            shown = 0.0
            for clip in itertools.cycle(clips[turn % len(clips) :] + clips):
                with av.open(str(clip)) as container:
                    rate = container.streams.video[0].average_rate
                    for frame in container.decode(video=0):
                        if stream is None:
                            stream = film.add_stream("libx264", rate=rate, options={"g": "25"})
                            stream.width, stream.height = frame.width, frame.height
                            stream.pix_fmt = "yuv420p"
                        copy = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))
                        copy.pts, number = number, number + 1
                        film.mux(stream.encode(copy))
                        shown += 1 / rate
                if shown >= SECONDS_PER_CLASS:
                    break
            if number / rate >= seconds:
                break
        film.mux(stream.encode(None))


def memory_of(pid: int) -> int:
    """Bytes that a process and its children do not share with others."""
    pids = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pids.append(int(child))
    for task in Path(f"/proc/{pid}/task").iterdir():
        pids += [int(p) for p in (task / "children").read_text().split()]
    total = 0
    for one in set(pids):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


class Live:
    """One `vt predict --live`, its lines, and its memory over time."""

    def __init__(self, name: str, source: str, words: list[str], stdin: Any = None) -> None:
        self.name, self.rows, self.memory = name, [], []
        command = [sys.executable, "-m", "vtcli", "predict", "--live", source, *words]
        self.process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.rows.append(json.loads(line))

    def watch(self) -> None:
        """Note the memory."""
        try:
            self.memory.append(memory_of(self.process.pid))
        except OSError:
            return

    def stop(self) -> None:
        """End it as a service manager does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def events_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of windows with the scores of all classes."""
    classes = {p["index"]: p["label"] for row in rows for p in row["predictions"]}
    labels = [classes[index] for index in sorted(classes)]
    scores_WK = np.zeros((len(rows), len(labels)))
    for scores_K, row in zip(scores_WK, rows, strict=True):
        for p in row["predictions"]:
            scores_K[p["index"]] = p["score"]
    windows = [Window(row["start"], row["end"], 0, 1) for row in rows]
    return [event.to_dict() for event in find_events(windows, scores_WK, labels, EventRule())]


def different(events: list[dict[str, Any]], expected: list[dict[str, Any]], until: float) -> int:
    """Events of either list before `until` that the other has not within one stride."""

    def has(event: dict[str, Any], others: list[dict[str, Any]]) -> bool:
        return any(
            o["label"] == event["label"]
            and abs(o["start"] - event["start"]) <= STRIDE + 1e-6
            and abs(o["end"] - event["end"]) <= STRIDE + 1e-6
            for o in others
        )

    pairs = ((events, expected), (expected, events))
    return sum(e["end"] < until and not has(e, others) for some, others in pairs for e in some)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("-m", "--model", default="uniformerv2-nano")
    parser.add_argument("--gst", default="/usr/bin/python3")
    args = parser.parse_args()
    seconds = 60 * args.minutes
    with tempfile.TemporaryDirectory() as temporary:
        film = Path(temporary) / "film.ts"
        write_film(args.folder, seconds, film)
        words = ["-m", args.model, *WINDOW, "--format", "jsonl"]
        vt = [sys.executable, "-m", "vtcli", "predict"]
        whole = [*vt, film, *words, "--events"]
        done = subprocess.run(whole, check=True, capture_output=True, text=True)
        expected = json.loads(done.stdout)["segments"]
        read = [
            "ffmpeg",
            "-loglevel",
            "error",
            "-re",
            "-i",
            str(film),
            "-c",
            "copy",
            "-f",
            "mpegts",
        ]
        http = "http://127.0.0.1:8191/film.ts"
        gst = subprocess.Popen([args.gst, "-c", RTSP, str(film), "8192"])
        played = subprocess.Popen([*read, "-"], stdout=subprocess.PIPE)
        served = subprocess.Popen([*read, "-listen", "1", http])
        time.sleep(1)
        other = subprocess.Popen([*read, "-"], stdout=subprocess.PIPE)
        clips = ["--events", "--save-clips", str(Path(temporary) / "clips")]
        runs = [
            Live("pipe", "-", words, played.stdout),
            Live("pipe, --save-clips", "-", [*words, *clips], other.stdout),
            Live("HTTP", http, words),
            Live("RTSP", "rtsp://127.0.0.1:8192/film", words),
        ]
        begin = time.monotonic()
        while time.monotonic() - begin < seconds + 30:
            time.sleep(5)
            for run in runs:
                run.watch()
        for run in runs:
            run.stop()
        for helper in (gst, played, other, served):
            helper.kill()
        saved = len(list((Path(temporary) / "clips").glob("*.mp4")))
    titles = ("source", "lines", "skipped", "delay of a line: p50 / p95 / most")
    print(f"| {' | '.join((*titles, 'events not as in the file', 'MB'))} |")
    print("| --- | --- | --- | --- | --- | --- |")
    for run in runs:
        delays = [row["delay"] for row in run.rows if row["delay"] is not None]
        if not delays:
            print(f"| {run.name} | 0 |")
            continue
        p50, p95, most = np.percentile(delays, [50, 95, 100])
        found = run.rows if "clips" in run.name else events_of(run.rows)
        wrong = different(found, expected, min(seconds, run.rows[-1]["end"]) - 5)
        skipped = run.rows[-1].get("skipped", "-")
        half = [m / 1e6 for m in run.memory]
        fifth = len(half) // 5
        flat = (
            f"{np.mean(half[fifth : 2 * fifth]):.0f} then {np.mean(half[-2 * fifth : -fifth]):.0f}"
        )
        times = f"{p50:.2f} s / {p95:.2f} s / {most:.2f} s"
        print(f"| {run.name} | {len(run.rows)} | {skipped} | {times} | {wrong} | {flat} |")
    print(f"{len(expected)} events in the file; {saved} clips saved from the pipe")


if __name__ == "__main__":
    main()
