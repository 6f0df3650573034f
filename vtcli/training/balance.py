"""Classes of different sizes: their counts, weights of the loss, and which metric picks the epoch.

Legend: K classes of all heads, concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence

from vtcli.data.samples import Dataset, labels_by_head
from vtcli.models.recipe import ClassWeights

UNBALANCED = 2.0
"""Training videos of the largest class over those of the smallest, from which classes count as
unbalanced: then the best epoch is the one with the highest macro accuracy."""
POWERS: dict[ClassWeights, float] = {"sqrt": 0.5, "inverse": 1.0}


def class_counts(dataset: Dataset) -> list[list[int]]:
    """Videos of every class, per head; a video with several labels counts for each of them."""
    heads = list(dataset.classes.values())
    counts = [[0] * len(names) for names in heads]
    for sample in dataset.samples:
        labels_of_heads = labels_by_head(sample, len(heads))
        for of_head, labels in zip(counts, labels_of_heads, strict=True):
            for label in labels:
                of_head[label] += 1
    return counts


def size_range(dataset: Dataset) -> tuple[int, int]:
    """Videos of the smallest and of the largest class of the head in which they differ most."""
    ranges = [(min(filter(None, c), default=0), max(c, default=0)) for c in class_counts(dataset)]
    return max(ranges, key=lambda sizes: sizes[1] / max(1, sizes[0]))


def is_unbalanced(dataset: Dataset) -> bool:
    """Whether the best epoch is chosen by macro accuracy."""
    smallest, largest = size_range(dataset)
    return largest >= UNBALANCED * max(1, smallest)


def class_weights(dataset: Dataset, kind: ClassWeights) -> list[float] | None:
    """The weight [K] of each class in the loss; None where all are 1.

    With n videos of a class, n^-1/2 (`sqrt`) or 1/n (`inverse`), scaled so that the mean over the
    training videos is 1: the learning rate then means the same.
    """
    if kind == "none":
        return None
    weights: list[float] = []
    for counts in class_counts(dataset):
        raw = [max(1, count) ** -POWERS[kind] for count in counts]
        mean = sum(w * n for w, n in zip(raw, counts, strict=True)) / max(1, sum(counts))
        weights += [w / mean if mean else 1.0 for w in raw]
    return weights


def groups_to_balance(dataset: Dataset) -> list[tuple[float, tuple[int, ...]]]:
    """For every video how often it is drawn relative to the others, and its class.

    The reciprocal of its class's size; with several labels or heads, of the rarest one's.
    """
    counts = class_counts(dataset)
    rows = []
    for sample in dataset.samples:
        sizes: Sequence[int] = [
            of_head[label]
            for of_head, labels in zip(counts, labels_by_head(sample, len(counts)), strict=True)
            for label in labels
        ]
        rows.append((1 / min(sizes, default=1), sample.labels))
    return rows
