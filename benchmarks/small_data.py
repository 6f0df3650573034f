"""Fine-tuning on few synthetic videos with the default command.

    python benchmarks/small_data.py motion8b -o WORK       defaults and a tuned AdamW loop
    python benchmarks/small_data.py table -o WORK          8 to 64 videos per class, Motion-8
    python benchmarks/small_data.py head -o WORK           a fitted classifier and ten epochs of it

`motion8b`: 32 training videos of each class, 20 for validation, 100 for the test. The tuned loop
is AdamW with one rate for all layers and a cosine from a classifier of zeros, for as many optimizer
steps as the default; its rate is the one of `--rate` with the best validation accuracy (first
seed). `table`: all videos of a class are
given to the command, which holds out a fifth; `--family`, `--per-class` and `--init` choose other
parts of it. `head`: 512 videos, the classifier alone, through
cached features and in steps; CPU seconds include decoding.

Each result is a line of WORK/results.jsonl. The same command goes on where it was stopped, and
prints the tables when nothing is left; with --minutes it starts no new training after that time.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

MODELS = ("uniformerv2-nano", "videoswin-nano", "vivit-nano", "xvit-nano")
SEEDS = {"uniformerv2-nano": (0, 1, 2), "videoswin-nano": (0, 1, 2)}
RATES = ("1e-4", "3e-4", "1e-3", "3e-3")
CACHE = ("--ram-cache-gb", "2")
PLAIN = (
    *("--layer-decay", "1", "--smoothing", "0", "--clip-grad", "0", "--no-freeze-bn"),
    *("--head-init", "zero"),
)
PER_CLASS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Job:
    """One training: its key in the results, the options of `vt finetune`, and the test list, which
    is also scored with other `views` where they are given.
    """

    key: tuple[Any, ...]
    words: tuple[str, ...]
    test: Path
    views: str | None = None


@dataclass(frozen=True)
class Part:
    """A part of the table: a family, the videos of each class, and the initial weights."""

    family: str
    per_class: Sequence[int]
    init: str

    def key(self, model: str, per_class: int) -> tuple[Any, ...]:
        """The key of a training in the results."""
        return self.family, model, per_class, self.init


@dataclass(frozen=True)
class Bench:
    """The results of a folder, and what makes them."""

    work: Path
    until: float

    def known(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """The results so far."""
        path = self.work / "results.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return {tuple(row["key"]): row for row in map(json.loads, lines)}

    def run(self, jobs: Iterable[Job]) -> bool:
        """Do what is missing; False where the time was over before all was done."""
        for job in jobs:
            if job.key in self.known():
                continue
            if time.monotonic() > self.until:
                return False
            row = {"key": job.key, **self._train(job)}
            with (self.work / "results.jsonl").open("a") as file:
                print(json.dumps(row), file=file)
            print(f"{' '.join(map(str, job.key))}: {row['test']:.3f}", file=sys.stderr, flush=True)
        return True

    def _train(self, job: Job) -> dict[str, Any]:
        folder = self.work / "runs" / "-".join(map(str, job.key))
        words = [*job.words, "-o", str(folder), "--device", "cpu"]
        start, cpu = time.monotonic(), self._cpu_seconds()
        command = [sys.executable, "-m", "vtcli", "finetune", *words, "--format", "json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        seconds, cpu = time.monotonic() - start, self._cpu_seconds() - cpu
        result = json.loads(done.stdout)
        correct, total = self._tested(folder / "best.safetensors", job.test)
        views = self._tested(folder / "best.safetensors", job.test, job.views) if job.views else ()
        for weights in folder.glob("*.safetensors"):
            weights.unlink()
        best = result["best"]
        return {
            "test": correct / total,
            "correct": correct,
            "of": total,
            "correct_views": next(iter(views), None),
            "validation": best["val_top1"],
            "validation_loss": best["val_loss"],
            "epochs": best["epoch"],
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
        }

    @staticmethod
    def _cpu_seconds() -> float:
        """Of all commands that ended, with their decoding processes."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    @staticmethod
    def _tested(model: Path, test: Path, views: str | None = None) -> tuple[int, int]:
        """How many videos of a list the model recognizes, and how many there are."""
        from vtcli import Predictor
        from vtcli.data.open import open_dataset

        dataset = open_dataset(test)
        (names,) = dataset.classes.values()
        with Predictor(model, topk=1, views=views, device="cpu") as predictor:
            found = list(predictor.predict([sample.path for sample in dataset.samples]))
        labels = [names[sample.labels[0]] for sample in dataset.samples]
        hits = (f.predictions[0].label == y for f, y in zip(found, labels, strict=True))
        return sum(hits), len(labels)


@cache
def made(folder: Path, family: str, train: int, val: int, test: int) -> Path:
    """A synthetic dataset with these clips of each class."""
    from vtcli.synthetic.families import FAMILIES
    from vtcli.synthetic.make import make_dataset

    counts = {"train": 8 * train, "val": 8 * val, "test": 8 * test}
    return make_dataset(folder / family, FAMILIES[family], clips=counts, workers=2)


def motion8b_jobs(bench: Bench, models: Sequence[str], rates: Sequence[str]) -> Iterator[Job]:
    """Defaults, and the loop at each rate; then the loop at its best rate for further seeds."""
    data = made(bench.work / "8b", "motion8b", 32, 20, 100)
    for model in models:
        common = ("--dataset", str(data), "-m", model, *CACHE)
        for seed in SEEDS.get(model, (0,)):
            words = (*common, "--seed", str(seed))
            yield Job(("motion8b", model, "default", seed), words, data / "test.csv")
            for rate in rates if seed == 0 else (best_rate(bench, model, rates),):
                plain = (*words, *PLAIN, "--lr", rate, "--head-lr", rate, "--patience", "0")
                yield Job(("motion8b", model, rate, seed), plain, data / "test.csv")


def best_rate(bench: Bench, model: str, rates: Sequence[str]) -> str:
    """The rate with the best validation accuracy, then loss, of the first seed."""
    known = bench.known()

    def quality(rate: str) -> tuple[float, float]:
        row = known["motion8b", model, rate, 0]
        return row["validation"], -row["validation_loss"]

    return max(rates, key=quality)


def print_motion8b(bench: Bench, models: Sequence[str], rates: Sequence[str]) -> None:
    known = bench.known()
    print("| model | seeds | default | tuned loop | its rate | difference |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for model in models:
        seeds, rate = SEEDS.get(model, (0,)), best_rate(bench, model, rates)
        default, tuned = (
            [100 * known["motion8b", model, arm, seed]["test"] for seed in seeds]
            for arm in ("default", rate)
        )
        a, b = (sum(values) / len(seeds) for values in (default, tuned))
        cells = [", ".join(f"{value:.1f}" for value in values) for values in (default, tuned)]
        print(f"| {model} | {len(seeds)} | {' | '.join(cells)} | {rate} | {a - b:+.1f} |")


def table_jobs(bench: Bench, models: Sequence[str], part: Part) -> Iterator[Job]:
    """A family with other class names, by videos of each class."""
    data = made(bench.work / "all", part.family, max(PER_CLASS), 0, 20)
    for per_class in part.per_class:
        folder = renamed(data, per_class)
        for model in models:
            words = ("--dataset", str(folder / "train"), "-m", model, "--init", part.init)
            yield Job(part.key(model, per_class), (*words, *CACHE), folder / "test")


def renamed(data: Path, per_class: int) -> Path:
    """The dataset with classes 0 to 7, and its first training videos.

    The classes are in another order: `--seed 0` draws the classifier that the nano models began
    with, which still fits their features.
    """
    folder = data.parent / f"{data.name}-{per_class}"
    if folder.exists():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for split, most in (("train", per_class), ("test", None)):
        classes = sorted((data / split).iterdir())
        for number, source in enumerate([*classes[3:], *classes[:3]]):
            target = part / split / f"class {number}"
            target.mkdir(parents=True)
            for clip in sorted(source.iterdir())[:most]:
                shutil.copy(clip, target)
    part.rename(folder)
    return folder


def print_table(bench: Bench, models: Sequence[str], part: Part) -> None:
    known = bench.known()
    print(f"\n{part.family}, {part.init}; seconds (CPU seconds) in brackets\n")
    print(f"| model | {' | '.join(map(str, part.per_class))} |")
    print(f"| --- |{' ---: |' * len(part.per_class)}")
    for model in models:
        rows = [known[part.key(model, count)] for count in part.per_class]
        cells = [
            f"{100 * row['test']:.1f} %, {row['seconds']:.0f} ({row['cpu_seconds']:.0f}) s"
            for row in rows
        ]
        print(f"| {model} | {' | '.join(cells)} |")


def head_jobs(bench: Bench, models: Sequence[str]) -> Iterator[Job]:
    """The classifier through cached features, and in ten epochs of the paper's recipe."""
    folder = renamed(made(bench.work / "all", "motion8", max(PER_CLASS), 0, 20), max(PER_CLASS))
    for model in models:
        words = ("--dataset", str(folder / "train"), "-m", model, "--trainable", "head")
        yield Job(("head", model, "fitted"), words, folder / "test")
        steps = (*words, "--recipe", "paper", "--epochs", "10")
        yield Job(("head", model, "steps"), steps, folder / "test")


def print_head(bench: Bench, models: Sequence[str]) -> None:
    known = bench.known()
    print("| model | fitted: top-1 | seconds (CPU) | steps: top-1 | seconds (CPU) | CPU ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for model in models:
        rows = [known["head", model, arm] for arm in ("fitted", "steps")]
        cells = [
            f"{100 * row['test']:.1f} % | {row['seconds']:.0f} ({row['cpu_seconds']:.0f})"
            for row in rows
        ]
        ratio = rows[1]["cpu_seconds"] / rows[0]["cpu_seconds"]
        print(f"| {model} | {' | '.join(cells)} | {ratio:.1f} x |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("motion8b", "table", "head"))
    parser.add_argument("-o", "--work", type=Path, required=True)
    parser.add_argument("-m", "--model", action="append")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--family", choices=("motion8", "motion8b"), default="motion8")
    parser.add_argument("--per-class", type=int, action="append", choices=PER_CLASS)
    parser.add_argument("--rate", action="append", choices=RATES, help="of the tuned loop")
    parser.add_argument("--init", choices=("checkpoint", "scratch"), default="checkpoint")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.work, time.monotonic() + 60 * args.minutes)
    models = args.model or MODELS
    show: Callable[[], None]
    if args.what == "motion8b":
        rates = args.rate or RATES
        jobs = motion8b_jobs(bench, models, rates)
        show = partial(print_motion8b, bench, models, rates)
    elif args.what == "table":
        part = Part(args.family, args.per_class or PER_CLASS, args.init)
        jobs, show = table_jobs(bench, models, part), lambda: print_table(bench, models, part)
    else:
        jobs, show = head_jobs(bench, models), lambda: print_head(bench, models)
    if bench.run(jobs):
        show()
    else:
        sys.exit("time is over; the same command goes on")


if __name__ == "__main__":
    main()
