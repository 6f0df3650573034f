"""A single prediction in a new process, against transformers: python benchmarks/cold.py CLIP

A random ViViT-B is written once for both: for `vt predict` as our file, for transformers'
`pipeline("video-classification")` as the folder that ours was converted from. In each round both
classify the clip in a new process, with one view, in their default precision. Printed are the
medians and ranges of wall time, of peak memory and of the ratios. The peer needs FFmpeg.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CHECKPOINT = "vivit-b.k400-in21k-32f"
PEER = """
import sys
from transformers import pipeline
print(pipeline("video-classification", model=sys.argv[1])(sys.argv[2]))
"""
# Upstream's normalization: to -1..1, nothing else.
PROCESSOR = {
    "image_processor_type": "VivitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 127.5,
    "offset": True,
    "do_normalize": False,
}


def write_weights(folder: Path) -> tuple[Path, Path]:
    """The folder for transformers, and our file that is converted from it."""
    import torch

    from vtcli.models import get_architecture
    from vtcli.models.layouts import from_vt
    from vtcli.models.vivit.checkpoints import hf_config
    from vtcli.weights.checkpoint import write_checkpoint
    from vtcli.weights.load import create_model
    from vtcli.weights.registry import load_registry

    upstream, ours = folder / "hf", folder / "ours.safetensors"
    upstream.mkdir()
    torch.manual_seed(0)
    net = create_model(CHECKPOINT)
    tensors = from_vt(get_architecture("vivit").layouts["hf"], net.state_dict(), net.config)
    write_checkpoint(upstream / "model.safetensors", tensors, {})
    labels = load_registry().find(CHECKPOINT).heads[0].labels
    (upstream / "config.json").write_text(hf_config(net.config, labels, multi_label=False)[1])
    (upstream / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    words = ("convert", str(upstream / "model.safetensors"), "-m", CHECKPOINT, "-o", str(ours))
    subprocess.run([sys.executable, "-m", "vtcli", *words], check=True, stdout=subprocess.DEVNULL)
    return upstream, ours


def measured(words: Sequence[str]) -> tuple[float, float]:
    """Wall time in seconds and peak resident memory in MB of one command."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words[-3:])} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("clip")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        upstream, ours = write_weights(Path(folder))
        sides = {
            "ours": ("-m", "vtcli", "predict", args.clip, "-m", str(ours)),
            "transformers": ("-c", PEER, str(upstream), args.clip),
        }
        rounds = [
            {name: measured(words) for name, words in sides.items()} for _ in range(args.rounds)
        ]
    for what, unit, number in (("wall time", "s", 0), ("peak memory", "MB", 1)):
        for name in sides:
            show(f"{name}, {what}", [r[name][number] for r in rounds], unit)
        show(f"ratio, {what}", [r["ours"][number] / r["transformers"][number] for r in rounds], "")


def show(name: str, values: Sequence[float], unit: str) -> None:
    print(
        f"{name:26} {statistics.median(values):8.2f} {unit:2} ({min(values):.2f}-{max(values):.2f})"
    )


if __name__ == "__main__":
    main()
