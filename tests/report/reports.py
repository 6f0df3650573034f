"""Synthetic evaluations: metrics of random scores, and frames that are real image files."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np

from vtcli.evaluation.metrics import action_metrics, head_metrics
from vtcli.evaluation.results import (
    EvaluationReport,
    FailureRow,
    HeadResult,
    Misclassification,
    ReportedMetrics,
)

MOTIONS = (
    "left",
    "right",
    "up",
    "down",
    "approach",
    "recede",
    "clockwise",
    "counter-clockwise",
)


def image(seed: int, size: tuple[int, int] = (112, 112), codec: str = "mjpeg") -> bytes:
    """A small JPEG (or PNG) file of colored bars."""
    width, height = size
    ramp = np.linspace(0, 6, width)[None, :] + np.linspace(0, 3, height)[:, None]
    waves = [128 + 100 * np.sin(ramp * (1 + k) + seed) for k in range(3)]
    frame = av.VideoFrame.from_ndarray(np.stack(waves, -1).astype(np.uint8), format="rgb24")
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height = size
    context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
    context.time_base = Fraction(1, 25)
    return b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])


def scores_of(
    classes: int, each: int, accuracy: float, seed: int = 0
) -> tuple[np.ndarray, list[int]]:
    """Probabilities [N, K] of about this accuracy, which varies between classes, and targets."""
    rng = np.random.default_rng(seed)
    target = np.repeat(np.arange(classes), each)
    accuracy_N = np.clip(rng.normal(accuracy, 0.12, classes), 0.05, 0.98)[target]
    near = (target + rng.choice([1, 1, 1, 2, 5, classes // 2], len(target))) % classes
    logits = rng.normal(0, 1, (len(target), classes))
    best = np.where(rng.random(len(target)) < accuracy_N, target, near)
    logits[np.arange(len(target)), best] += 6
    logits[np.arange(len(target)), target] += 2
    weights = np.exp(logits)
    return weights / weights.sum(1, keepdims=True), target.tolist()


def head(
    names: tuple[str, ...],
    each: int = 10,
    accuracy: float = 0.8,
    name: str = "action",
    failed: int = 0,
) -> HeadResult:
    """The metrics of a classifier with this many samples per class."""
    scores, target = scores_of(len(names), each, accuracy, seed=len(names))
    return head_metrics(name, names, scores, target, len(target) + failed)


def nothing(names: tuple[str, ...], expected: int) -> HeadResult:
    """The metrics of a classifier of which no sample was read."""
    return head_metrics("action", names, np.zeros((0, len(names))), [], expected)


def failures(count: int, reason: str = "corrupt", folder: str = "/data/val") -> list[FailureRow]:
    """Failures with error messages like those of the decoder."""
    return [
        FailureRow(
            f"{reason}/{i}.mp4",
            f"{folder}/{reason}/{i}.mp4",
            reason,
            f"{folder}/{reason}/{i}.mp4: breaks off after {i} frames; copy or download it again",
        )
        for i in range(count)
    ]


def misclassification(number: int = 0, **changes: Any) -> Misclassification:
    """A wrong prediction with eight frames, half a second apart."""
    fields: dict[str, Any] = {
        "id": f"val/{number}",
        "path": f"/data/val/clip {number}.mp4",
        "target": "left",
        "predicted": "right",
        "score": 0.98 - 0.01 * number,
        "target_score": 0.01,
        "frames": tuple(image(number * 8 + i) for i in range(8)),
        "times": tuple(f"{0.5 * i:.1f} s" for i in range(8)),
    }
    return Misclassification(**(fields | changes))


def report(*heads: HeadResult, **changes: Any) -> EvaluationReport:
    """A run with these heads; by default eight motions, all read, without reported metrics."""
    heads = heads or (head(MOTIONS),)
    fields: dict[str, Any] = {
        "title": "uniformerv2-nano.motion8 on motion8 test",
        "model": "uniformerv2-nano.motion8",
        "dataset": "motion8",
        "split": "test",
        "protocol": "8 frames, 1 clip x 1 crop of 64 x 64, mean of probabilities, fp32",
        "differs": "",
        "reported": None,
        "expected": heads[0].n_expected,
        "read": heads[0].n_read,
        "failed": heads[0].n_expected - heads[0].n_read,
        "heads": heads,
        "seconds": 83.4,
        "settings": {"device": "cpu", "precision": "fp32", "batch": "8", "seed": "0"},
    }
    return EvaluationReport(**(fields | changes))


def kinetics(classes: int = 400, each: int = 6) -> EvaluationReport:
    """Many classes, two reasons of failures, reported metrics, another protocol."""
    names = tuple(f"{verb} {i:03d}" for i, verb in zip(range(classes), _verbs(), strict=False))
    failed = [*failures(23), *failures(4, "timeout")]
    return report(
        head(names, each, 0.82, failed=len(failed)),
        title="uniformerv2-b.k400-k710-8f on k400 val",
        model="uniformerv2-b.k400-k710-8f",
        dataset="k400",
        split="val",
        protocol="8 frames spread over the video, 1 clip x 1 crop of 224 x 224, probabilities",
        differs="the paper uses 4 clips x 3 crops, this run 1 x 1; expect about a point less",
        reported=ReportedMetrics(84.4, 96.3, "UniFormerV2 MODEL_ZOO@722a434"),
        failures=tuple(failed),
        warnings=("27 videos failed and count as wrong over all",),
        misclassifications=tuple(
            misclassification(i, target=names[i], predicted=names[i + 1], score=0.99 - i / 300)
            for i in range(12)
        ),
        seconds=2143.0,
    )


def _verbs() -> list[str]:
    words = "abseiling archery baking bowling clapping diving juggling kayaking marching yawning"
    return words.split() * 100


def epic() -> EvaluationReport:
    """Two heads and their pairs."""
    verbs = tuple(f"verb-{i}" for i in range(20))
    nouns = tuple(f"noun {i}" for i in range(60))
    verb, verb_target = scores_of(20, 30, 0.66, seed=1)
    noun, noun_target = scores_of(60, 10, 0.56, seed=2)
    order = np.random.default_rng(0).permutation(600)
    noun, noun_target = noun[order], [noun_target[i] for i in order]
    target = list(zip(verb_target, noun_target, strict=True))
    return report(
        head_metrics("verb", verbs, verb, verb_target, 600),
        head_metrics("noun", nouns, noun, noun_target, 600),
        action=action_metrics(verb, noun, target, 600),
        title="vivit-l-fe.epic100-32f on epic100 validation",
        model="vivit-l-fe.epic100-32f",
        dataset="epic100",
        split="validation",
        reported=ReportedMetrics(43.6, None, "scenic README"),
    )
