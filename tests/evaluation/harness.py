"""Small labeled videos and tiny models with any classes, for tests of evaluation."""

from __future__ import annotations

import io
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.forked import Forked, run_forked
from vtcli.cli import run
from vtcli.labels import load_labels
from vtcli.models import get_architecture, with_overrides
from vtcli.video.pipeline import Pipeline
from vtcli.weights.checkpoint import CARD_KEY, HeadSpec, ModelCard, write_checkpoint
from vtcli.weights.registry import load_registry

ROOT = Path(__file__).parents[2]
CLASSES = load_labels("k400")[:8]
TINY_TWO_HEADS = {
    "image_size": 32,
    "patch_size": 16,
    "width": 64,
    "depth": 1,
    "num_heads": 1,
    "temporal_positions": 8,
    "consensus": "avg",
    "num_frames": 8,
}


def model_file(
    path: Path,
    heads: Mapping[str, Sequence[str]] | None = None,
    dataset: str = "k400",
    views: tuple[int, int] = (2, 1),
    seed: int = 0,
) -> Path:
    """A checkpoint of a random tiny network with these classes and a pipeline of 32 pixels."""
    heads = heads or {"action": CLASSES}
    count = sum(map(len, heads.values()))
    arch, fields = "uniformerv2", {**tiny.OVERRIDES, "num_classes": count}
    base = "uniformerv2-b"
    if len(heads) > 1:
        named = [(name, len(labels)) for name, labels in heads.items()]
        arch, base = "xvit", "xvit-b"
        fields = {**TINY_TWO_HEADS, "num_classes": count, "heads": named}
    architecture = get_architecture(arch)
    config = with_overrides(architecture.presets[base], fields)
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in architecture.build(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.2 + (len(shape) == 1)
        for name, shape in shapes.items()
    }
    preset = load_registry().pipelines["uniformerv2-kinetics"].to_dict()
    changes = {"short_side": 32, "crop_size": 32, "clips": views[0], "crops": views[1]}
    card = ModelCard(
        id="",
        arch=arch,
        model=base,
        config=asdict(config),
        heads=tuple(HeadSpec(n, len(labels), tuple(labels)) for n, labels in heads.items()),
        pipeline=Pipeline.from_dict({**preset, **changes, "frames": config.num_frames}),
        dataset=dataset,
    )
    write_checkpoint(path, tensors, {CARD_KEY: card.to_json()})
    return path


def class_folders(root: Path, per_class: int = 3, classes: Sequence[str] = CLASSES) -> Path:
    """A folder of class folders with real videos, all of them different."""
    for label, name in enumerate(classes):
        folder = root / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for number in range(per_class):
            seed = label * per_class + number
            tiny.video(folder / f"clip {number} #&é.mp4", 12 + number, (48, 40), seed)
    return root


def vt(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `vt` in a process of its own, with one thread."""
    return run_forked(words, environment(**variables), ROOT)


def vt_here(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `vt` in this process with one thread, which saves the startup time."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
            for name, value in environment(**variables).items():
                patched.setenv(name, value)
            code = run([str(word) for word in words])
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def evaluated(folder: Path) -> tuple[Path, Path, str]:
    """A small model, the run of its evaluation on two videos per class, and what that printed."""
    model = model_file(folder / "tiny.safetensors")
    videos = class_folders(folder / "videos", per_class=2)
    words = ["eval", "--dataset", videos, "-m", model, "-o", folder / "run", "--device", "cpu"]
    done = vt_here(*words)
    assert done.returncode == 0, done.stderr
    return model, folder / "run", done.stdout


def environment(**variables: str) -> dict[str, str]:
    """The environment of this process, limited to one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "100", **variables}


def wait_for(path: Path, process: Forked | subprocess.Popen[bytes]) -> None:
    """Return once a file exists, or the process that should write it has ended."""
    limit = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)


def scores_of(run: Path) -> dict[tuple[str, int], dict[str, str]]:
    """The logits of every stored view as they are written, by sample and view."""
    import json

    found = {}
    for file in sorted((run / "scores").glob("*.jsonl")):
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n") and "view" in (record := json.loads(line)):
                found[record["id"], record["view"]] = record["logits"]
    return found
