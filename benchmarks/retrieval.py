"""Retrieval with embeddings: mean average precision by class, and the time of an exact search.

    vt datasets make motion8 motion8/
    python benchmarks/retrieval.py motion8/ [-m MODEL ...]

Every test video is a query, and the other test videos of its class are what should be found. The
average precision of each query is scikit-learn's; the k-NN accuracy (k = 10) of the test videos is
by the votes of `vt search --classify` in the validation videos. Then one vector is searched in
100,000 random ones, five times; the median is printed, and the time of the norms, once per index.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from sklearn.metrics import average_precision_score

from vtcli import Predictor
from vtcli.data.open import open_dataset
from vtcli.inference.embedding import Embedder
from vtcli.inference.embeddings_file import Embeddings
from vtcli.inference.results import Failure
from vtcli.inference.search import Query, VectorIndex, nearest, search

MODELS = ("uniformerv2-nano", "videoswin-nano", "vivit-nano", "xvit-nano")
NEIGHBORS = 10


def embedded(predictor: Predictor, folder: Path, split: str) -> Embeddings:
    """The embeddings of a split with their labels."""
    dataset = open_dataset(folder, split=split)
    (names,) = dataset.classes.values()
    paths = tuple(str(sample.path) for sample in dataset.samples)
    outcomes = list(Embedder(predictor).embed(paths))
    assert not any(isinstance(outcome, Failure) for outcome in outcomes)
    vectors = np.stack([outcome[0].values for outcome in outcomes])
    labels = tuple(names[sample.labels[0]] for sample in dataset.samples)
    times = np.zeros(len(paths))
    return Embeddings(paths, paths, times, times, vectors, labels=labels)


def mean_average_precision(index: Embeddings) -> dict[str, float]:
    """By class, the mean over its queries."""
    similarity = VectorIndex(index.vectors).similarities(index.vectors)
    label = np.array(index.labels)
    precisions: dict[str, list[float]] = {}
    for row, own in enumerate(index.labels):
        others = np.arange(len(label)) != row
        ap = average_precision_score(label[others] == own, similarity[row][others])
        precisions.setdefault(own, []).append(ap)
    return {name: float(np.mean(values)) for name, values in sorted(precisions.items())}


def neighbor_accuracy(known: Embeddings, test: Embeddings) -> float:
    """Of the class with most votes."""
    queries = [Query(path, "video", v) for path, v in zip(test.paths, test.vectors, strict=True)]
    results = search(known, queries, NEIGHBORS, classify=True)
    best = [result.votes[0].label for result in results]
    return float(np.mean([a == b for a, b in zip(best, test.labels, strict=True)]))


def report_retrieval(folder: Path, models: Sequence[str]) -> None:
    """A row of a table per model."""
    for number, model in enumerate(models):
        with Predictor(model, precision="fp32") as predictor:
            known, test = (embedded(predictor, folder, s) for s in ("validation", "test"))
        by_class = mean_average_precision(test)
        if not number:
            print("| model | features | " + " | ".join(by_class) + " | mAP | k-NN accuracy |")
            print("| --- | ---: |" + " ---: |" * (len(by_class) + 2))
        values = [*by_class.values(), float(np.mean(list(by_class.values())))]
        cells = " | ".join(f"{100 * value:.1f}" for value in values)
        accuracy = 100 * neighbor_accuracy(known, test)
        print(f"| {model} | {test.width} | {cells} | {accuracy:.1f} |", flush=True)


def report_speed(count: int, width: int, dtype: type) -> None:
    """Seconds of one exact search."""
    vectors = np.random.default_rng(0).standard_normal((count, width), np.float32).astype(dtype)
    start = time.perf_counter()
    index = VectorIndex(vectors)
    opening = time.perf_counter() - start
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        nearest(index.similarities(vectors[:1])[0], NEIGHBORS)
        seconds.append(time.perf_counter() - start)
    print(f"{count:,} x {width} {np.dtype(dtype)}: {median(seconds):.4f} s, norms {opening:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("motion8", type=Path)
    parser.add_argument("-m", "--model", action="append")
    args = parser.parse_args()
    report_retrieval(args.motion8, args.model or MODELS)
    for width in (512, 768, 1024):
        for dtype in (np.float32, np.float16):
            report_speed(100_000, width, dtype)


if __name__ == "__main__":
    main()
