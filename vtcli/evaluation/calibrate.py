"""Fits the calibration of a model to a finished run and stores it in the card of a copy.

Per head the card gets under `calibration`:

    samples      number of labeled videos of the run that were read
    temperature  acts on the log of the fused probabilities
    delta        probability, over calibration sets, that the promise of `abstain` is broken
    abstain      alpha -> the confidence that an answer must exceed; null if there is none
    coverage     coverage -> the largest 1 - p of a class in a conformal set

Thresholds and quantiles apply to the fused probabilities before the temperature, which is fitted to
the same videos: so their promises stay exact.

With `views`, the card also gets `adaptive_views` (`vtcli.evaluation.stopping`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError
from vtcli.evaluation import calibration
from vtcli.evaluation.aggregate import RunScores, load_run_scores, stored_protocol
from vtcli.evaluation.export import collect_scores
from vtcli.evaluation.results import Confidence
from vtcli.evaluation.run_directory import RunDirectory
from vtcli.evaluation.stopping import StopFit, StoredViews, fit_threshold
from vtcli.inference.decision import Floats, apply_temperature
from vtcli.runtime.files import file_sha256
from vtcli.runtime.progress import ProgressCallback, no_progress
from vtcli.video.pipeline import ViewFusion
from vtcli.weights.checkpoint import CARD_KEY, ModelCard, open_tensors, write_checkpoint
from vtcli.weights.resolve import resolve

ALPHAS = tuple(percent / 100 for percent in range(1, 21))
COVERAGES = tuple(percent / 100 for percent in range(80, 100))


@dataclass(frozen=True)
class CalibratedHead:
    """One head: its entry in the card, and its metrics on the run before and after."""

    name: str
    entry: dict[str, Any]
    before: Confidence
    after: Confidence


@dataclass(frozen=True)
class Calibrated:
    """What was fitted; `stopping` is None where it was not asked for."""

    heads: list[CalibratedHead]
    stopping: StopFit | None = None


def calibrate_run(
    run: RunDirectory,
    output: Path,
    model: str | None = None,
    views: bool = False,
    on_download: ProgressCallback | None = None,
    on_video: ProgressCallback = no_progress,
) -> Calibrated:
    """Write a copy of the run's model with a calibrated card; the tensors are identical.

    model: None for the name in the run. views: learn when `--views auto` may stop. on_download:
    called with the bytes of the weights that are downloaded, hashed and written; on_video: with the
    videos whose scores are read. Raises `DataError` for a run of other weights, of a subset of the
    classes, without videos, or not finished, and what `resolve` and `fit_threshold` raise.
    """
    info, on_bytes = run.info, on_download or no_progress
    checkpoint = resolve(model or info["model"], on_download)
    if file_sha256(checkpoint.path, on_bytes) != info["model_sha256"]:
        raise DataError(
            f"{run.folder} is a run of other weights than {model or info['model']}; name the model "
            "of the run with -m, or evaluate this one with vt eval"
        )
    if checkpoint.card.pipeline.multi_label:
        raise DataError(
            "the classes of this model do not exclude each other, and there is no confidence to "
            "calibrate; predict with its thresholds"
        )
    heads = {head.name: tuple(head.labels) for head in checkpoint.card.heads}
    scores = load_run_scores(run, on_video=on_video)
    if heads != dict(scores.labels):
        raise DataError(
            f"{run.folder} is a run with other classes than the model's; evaluate without "
            "--label-set to calibrate"
        )
    if not scores.read:
        raise DataError(f"no video of {run.folder} could be read; see its failures.csv")
    on_video("fitting", 0, None)
    fitted = [_fit(scores, head) for head in scores.heads]
    calibrated = {head.name: head.entry for head in fitted}
    # A rule for events was fitted to other probabilities.
    card = replace(checkpoint.card, calibration=calibrated, events={})
    stopping = _fit_stopping(run, card) if views else None
    if stopping is not None:
        card = replace(card, adaptive_views=stopping.entry())
    write_checkpoint(output, open_tensors(checkpoint.path), {CARD_KEY: card.to_json()}, on_bytes)
    return Calibrated(fitted, stopping)


def _fit_stopping(run: RunDirectory, card: ModelCard) -> StopFit:
    protocol = stored_protocol(run.info)
    if protocol.pipeline != card.pipeline:
        raise DataError(
            f"{run.folder} is a run with another preprocessing than the model's; evaluate without "
            "--pipeline to learn when views may stop"
        )
    logits = collect_scores(run).logits
    rule = card.pipeline.view_fusion
    scores = {head: _fused(logits_NVK, rule) for head, logits_NVK in logits.items()}
    return fit_threshold(StoredViews(scores), f"{protocol.clips}x{protocol.crops}")


def _fused(logits_NVK: NDArray[np.float32], rule: ViewFusion) -> Floats:
    """What the rule fuses, view by view."""
    import torch

    from vtcli.video.views import view_scores

    N, V, K = logits_NVK.shape
    scores_MK = view_scores(torch.from_numpy(logits_NVK.reshape(N * V, K)), rule)
    return np.asarray(scores_MK.numpy().reshape(N, V, K))


def _fit(scores: RunScores, head: str) -> CalibratedHead:
    p_NK, target = scores.probabilities[head], scores.target(head)
    label_N = calibration.most_probable_label(p_NK, target)
    confidence_N, correct_N = p_NK.max(1), p_NK.argmax(1) == label_N
    temperature = calibration.fit_temperature(p_NK, label_N)
    entry = {
        "samples": len(label_N),
        "temperature": temperature,
        "delta": calibration.ABSTENTION_DELTA,
        "abstain": {
            f"{alpha:.2f}": calibration.abstention_threshold(confidence_N, correct_N, alpha)
            for alpha in ALPHAS
        },
        "coverage": {
            f"{coverage:.2f}": calibration.conformal_quantile(p_NK, label_N, coverage)
            for coverage in COVERAGES
        },
    }
    scaled_NK = apply_temperature(p_NK, temperature)
    return CalibratedHead(
        head,
        entry,
        calibration.confidence_metrics(p_NK, target),
        calibration.confidence_metrics(scaled_NK, target),
    )
