"""Throughput and memory of a bulk run: python benchmarks/bulk.py MODEL CLIP [--copies N]

In one process and alternating: decode all copies of the clip and cut them into views; run the same
number of forward passes; run `vt predict -o RUN/` over all copies, which does both at once.
Decoding and the network share the cores, so the upper bound is 1/(1/decode + 1/forward). Printed
are videos per second, CPU time of the main process per video (with `-j 0` it decodes as well), the
fraction of the upper bound, and the resident memory of the process and of its decoders after every
fifth of the run. `--random` takes random weights of the model's size, for which nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch

from vtcli.inference.batching import slots_per_batch
from vtcli.inference.bulk import BulkProgress, run_parts
from vtcli.inference.inputs import describe
from vtcli.inference.join import RunRequest, join_run
from vtcli.inference.predictor import Predictor, PredictSettings
from vtcli.inference.scoring import forward
from vtcli.models.build import clip_shape
from vtcli.weights.checkpoint import CARD_KEY, write_checkpoint
from vtcli.weights.load import create_model

Times = tuple[float, float]
"""Wall and CPU time, in seconds."""


def seconds(work: Callable[[], object]) -> Times:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def random_file(model: str, path: Path) -> str:
    """A checkpoint of this model's size whose weights are random."""
    net = create_model(model)
    write_checkpoint(path, net.state_dict(), {CARD_KEY: net.card.to_json()})
    return str(path)


def memory_mb() -> tuple[int, int]:
    """Resident memory of this process, and of those that it has started."""
    own = others = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        except OSError:
            continue
        size = int(text.get("VmRSS", "0").split()[0]) // 1024
        own += size * (text["Pid"] == str(os.getpid()))
        others += size * (text["PPid"].strip() == str(os.getpid()))
    return own, others


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-b", "--batch-size", type=int)
    parser.add_argument("-j", "--workers", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--random", action="store_true")
    args = parser.parse_args()
    settings = PredictSettings(
        batch_size=args.batch_size, workers=args.workers, precision=args.precision
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "in").mkdir()
        paths = [str(folder / "in" / f"{n:05}{args.clip.suffix}") for n in range(args.copies)]
        for path in paths:
            os.symlink(args.clip.resolve(), path)
        model = random_file(args.model, folder / "m.safetensors") if args.random else args.model
        with Predictor(model, settings) as predictor:
            compare(predictor, RunRequest(folder, model, settings), paths, args.rounds)


def compare(predictor: Predictor, request: RunRequest, paths: list[str], rounds: int) -> None:
    """Print the rates of the parts and of the whole."""
    net, size = predictor.net, predictor.auto_batch_size()
    slots = slots_per_batch(predictor.clips * predictor.crops, size)
    batch = torch.randn(slots, *clip_shape(net.config))
    passes = -(-len(paths) * predictor.clips * predictor.crops // slots)

    def decode() -> None:
        with closing(predictor._load_views(paths, range(len(paths)))) as loader:
            loader.ahead = 2 * loader.workers
            for _, (loaded,) in loader:
                list(loaded.clips)

    def compute() -> None:
        for _ in range(passes):
            forward(net, batch)

    forward(net, batch)
    predictor.decoders.start()
    times: dict[str, list[Times]] = {"decode alone": [], "forward alone": [], "bulk run": []}
    for number in range(rounds):
        times["decode alone"].append(seconds(decode))
        times["forward alone"].append(seconds(compute))
        times["bulk run"].append(bulk(request, paths, number))
    print(f"{net.dtype}, batch {slots}, {torch.get_num_threads()} threads")
    for name, taken in times.items():
        wall, cpu = (statistics.median(one) for one in zip(*taken, strict=True))
        each = f"{1000 * cpu / len(paths):.1f} ms CPU per video"
        print(f"{name:14} {len(paths) / wall:7.2f} videos/s, {each}")
    for index, kind in enumerate(("wall", "CPU")):
        in_turn = zip(*times.values(), strict=True)
        fractions = [(d[index] + c[index]) / b[index] for d, c, b in in_turn]
        spread = f"{min(fractions):.2f}-{max(fractions):.2f}"
        print(f"fraction of the upper bound, {kind}: {statistics.median(fractions):.2f} ({spread})")


def bulk(request: RunRequest, paths: list[str], number: int) -> Times:
    """Time of a run over all paths, with its listing and without the loading of the model."""
    folder = request.folder / f"run{number}"
    run = join_run(RunRequest(folder, request.model, request.settings))
    seen: dict[int, tuple[int, int]] = {}

    def watch(progress: BulkProgress) -> None:
        if progress.done % max(1, len(paths) // 5) == 0:
            seen.setdefault(progress.done, memory_mb())

    with run.predictor:
        run.predictor.decoders.start()

        def work() -> None:
            run.store.add_inputs(map(describe, paths))
            run_parts(run.store, run.rows, run.write, on_progress=watch)

        taken = seconds(work)
    stated = [f"{own} + {others} MB at {done}" for done, (own, others) in seen.items()]
    print(f"run {number}: {taken[0]:.1f} s; memory {', '.join(stated)}", flush=True)
    return taken


if __name__ == "__main__":
    main()
