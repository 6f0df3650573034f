"""Fine-tuning on 60 real clips: five folds of which none shares a source with another.

    python benchmarks/real_data.py folds FIGHTS -o WORK       the default command
    python benchmarks/real_data.py features FIGHTS -o WORK    classifiers alone

FIGHTS has the clips of the Surveillance Camera Fight Dataset that SOURCES knows (Akti, Tataroglu
and Ekenel, 2019) in two class folders. Every fold is held out once. `folds` runs the command on the
other four, of which it holds out a fifth to choose the best epoch; `--options "--trainable head"
--name head` gives it more options. `features` fits classifiers as `--trainable head` does, to all
clips of the other four in four views (the center and three random crops). Both score one view and
4x3, and print Wilson's interval of the 60 clips. Results are kept as in `small_data.py`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from small_data import CACHE, MODELS, Bench, Job

FOLDS = 5
MANY_VIEWS = "4x3"
SOURCES = (
    "fi006 fi011",
    "fi016 nofi016",
    "fi021 nofi046",
    "fi031 fi036 fi041 nofi031",
    "fi051 nofi041",
    "fi066 nofi096",
    "fi101 nofi021",
    "fi106 nofi026",
    "fi111 nofi036",
    "fi116 fi121 nofi051",
    "fi126 nofi061",
    "fi141 nofi106",
    "nofi066 nofi071 nofi076",
    "nofi131 nofi136",
)
"""Clips of the Surveillance Camera Fight Dataset that show one place, told by eye."""


def fold_jobs(
    bench: Bench, models: Sequence[str], folder: Path, name: str, options: Sequence[str]
) -> Iterator[Job]:
    """Every fold held out once; the default command on the others."""
    for model in models:
        for fold, (train, test) in enumerate(folds(folder, bench.work / "folds")):
            words = ("--dataset", str(train), "-m", model, "--group-by", "source", *CACHE, *options)
            yield Job(("folds", name, model, fold), words, test, MANY_VIEWS)


def features_of(model: str, folder: Path, cache_file: Path) -> dict[str, Any]:
    """By clip, features [16, D] of the center view, of 4x3 views, and of three random crops."""
    import numpy as np
    import torch

    from vtcli import load_model
    from vtcli.data.augment import Augmentation
    from vtcli.data.clip_loader import ClipReader
    from vtcli.data.open import open_dataset
    from vtcli.data.train_loader import ClipRequest, TrainClipReader

    if not cache_file.exists():
        network: Any = load_model(model, device="cpu", precision="fp32")
        pipeline, found = network.card.pipeline, {}
        readers = ClipReader(pipeline, 1, 1), ClipReader(pipeline, 4, 3)
        crops = TrainClipReader(pipeline, Augmentation(scale=(0.5, 1.0), hflip=0.0), 0)
        for number, sample in enumerate(open_dataset(folder).samples):
            clips = [clip for reader in readers for clip in reader.read(sample).clips]
            requests = [ClipRequest(sample, number, 0, view) for view in (1, 2, 3)]
            clips += [crops.read(request).pixels for request in requests]
            with torch.inference_mode():
                found[sample.path.stem] = network.features(torch.stack(clips)).numpy()
        np.savez(cache_file, **found)
    with np.load(cache_file) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def print_features(work: Path, folder: Path, models: Sequence[str]) -> None:
    import torch

    from vtcli.training.linear_probe import fit_classifier

    fitted, many = [0, 13, 14, 15], list(range(1, 13))
    print_fold_header()
    for model in models:
        features = features_of(model, folder, work / f"features-{model}.npz")
        correct = [0, 0]
        for lists in folds(folder, work / "folds"):
            train, test = (read_list(path) for path in lists)
            classes = sorted({row["label"] for row in train})
            rows = torch.cat([features[Path(row["path"]).stem][fitted] for row in train])
            labels = torch.tensor([classes.index(row["label"]) for row in train for _ in fitted])
            groups = [row["source"] for row in train for _ in fitted]
            fit = fit_classifier(rows, torch.nn.functional.one_hot(labels).float(), groups)
            for row in test:
                for column, views in enumerate(([0], many)):
                    scores = fit.logits(features[Path(row["path"]).stem][views]).softmax(1).mean(0)
                    correct[column] += classes[int(scores.argmax())] == row["label"]
        print_fold_row(model, correct, len(features))


def read_list(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def folds(folder: Path, work: Path) -> list[tuple[Path, Path]]:
    """Lists of the clips to train on and to test, by fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    clips = sorted(folder.resolve().glob("*/*.mp4"))
    source = {clip: row for row in SOURCES for clip in row.split()}
    groups = [source.get(clip.stem, clip.stem) for clip in clips]
    labels = [clip.parent.name for clip in clips]
    work.mkdir(parents=True, exist_ok=True)
    lists = []
    division = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for number, parts in enumerate(division.split(clips, labels, groups)):
        paths = work / f"train{number}.csv", work / f"test{number}.csv"
        for path, rows in zip(paths, parts, strict=True):
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "label", "source"])
                writer.writerows([str(clips[n]), labels[n], groups[n]] for n in rows)
        lists.append(paths)
    return lists


def print_folds(bench: Bench, models: Sequence[str], name: str) -> None:
    """Each clip is tested once."""
    known = bench.known()
    print_fold_header()
    for model in models:
        rows = [known["folds", name, model, fold] for fold in range(FOLDS)]
        columns = ("correct", "correct_views")
        correct = [sum(row[column] for row in rows) for column in columns]
        print_fold_row(model, correct, sum(row["of"] for row in rows))


def print_fold_header() -> None:
    print(f"| model | one view | 95 % interval | {MANY_VIEWS} views | 95 % interval |")
    print("| --- | ---: | ---: | ---: | ---: |")


def print_fold_row(model: str, correct: Sequence[int], total: int) -> None:
    """The clips that are right, with Wilson's interval."""
    from vtcli.evaluation.metrics import wilson_interval

    cells = []
    for count in correct:
        interval = wilson_interval(count, total)
        assert interval is not None
        cells.append(f"{count} of {total}")
        cells.append(f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %")
    print(f"| {model} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("folds", "features"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--work", type=Path, required=True)
    parser.add_argument("-m", "--model", action="append")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--name", default="default", help="name of these options in the results")
    parser.add_argument("--options", default="", help="more options of vt finetune")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    models = args.model or MODELS
    if args.what == "features":
        print_features(args.work, args.folder, models)
        return
    bench = Bench(args.work, time.monotonic() + 60 * args.minutes)
    options = args.options.split()
    if bench.run(fold_jobs(bench, models, args.folder, args.name, options)):
        print_folds(bench, models, args.name)
    else:
        sys.exit("time is over; the same command goes on")


if __name__ == "__main__":
    main()
