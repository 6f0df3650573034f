"""`--trainable head`: the frozen backbone computes features once, and the classifier is fitted to
them; the results are files like those of any training.

Legend: N rows (a view of a video each), D features, K classes of a head.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtcli.errors import UsageError
from vtcli.evaluation.metrics import wilson_interval
from vtcli.evaluation.multi_label import mean_ap_interval
from vtcli.models.build import prepare_for_inference
from vtcli.runtime.device import resolve_device, resolve_dtype
from vtcli.runtime.distributed import Group
from vtcli.runtime.logistic import LinearFit
from vtcli.runtime.progress import ProgressCallback
from vtcli.training.artifacts import BEST, Artifacts
from vtcli.training.balance import is_unbalanced
from vtcli.training.callbacks import Callback, CallbackList, RunInfo, reported_end
from vtcli.training.feature_fit import FeatureFit, is_linear
from vtcli.training.features import FeatureCache, Features, views_per_video
from vtcli.training.few_shot import first_part
from vtcli.training.init import build_model
from vtcli.training.plan import TrainPlan
from vtcli.training.signals import StopSignals
from vtcli.training.validate import ScoredVideo, ValidationResult, result_of
from vtcli.training.verdict import training_warnings
from vtcli.video.decode_pool import DecodePool

if TYPE_CHECKING:
    from torch import nn

CURVE_FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy on the validation videos, with its 95 % interval, after fitting to a part of the
    training videos; where each class is decided alone, the mean average precision `map` instead.
    """

    fraction: float
    videos: int
    top1: float | None
    map: float | None
    low: float
    high: float


class HeadFit:
    """The fit of the classifiers of a network, whose backbone stays as it is.

    `folder` must exist. Raises what `build_model` raises, and `UsageError` for a network whose
    classifier is not one linear layer on its features.
    """

    def __init__(
        self,
        plan: TrainPlan,
        folder: Path,
        group: Group,
        on_download: ProgressCallback | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        import torch

        self.plan, self.folder, self.group = plan, folder, group
        self.callbacks = CallbackList([*callbacks] * group.is_main_process)
        torch.manual_seed(plan.seed)
        model = build_model(plan.model_init, plan.labels, on_download)
        _check_linear(model, plan)
        self.tensors = dict(model.state_dict())
        device = resolve_device(group.device(plan.settings.device))
        dtype = resolve_dtype("auto", device)
        model = prepare_for_inference(model, None, device, dtype, packed=True)
        workers = plan.workers(group.local_size)
        self.decoders = DecodePool(workers, plan.settings.timeout)
        self.cache = FeatureCache(plan, folder, model, dtype, self.decoders, workers)
        self.artifacts = Artifacts(folder, plan)
        self.row: dict[str, Any] = {}
        self.penalties: dict[str, float] = {}
        self.curve: list[CurvePoint] = []

    @property
    def finished(self) -> bool:
        """Whether all features are cached and a classifier was fitted to them."""
        return not self.cache.missing()[0] and (self.folder / BEST).exists()

    @property
    def notices(self) -> list[str]:
        """What the user should know before it starts, a sentence each."""
        missing, others = self.cache.missing()
        done = len(self.cache.chunks) - len(missing)
        lines = []
        if others:
            lines.append(
                f"{others} files in {self.cache.folder} hold features of other weights, clips or "
                "settings; they are computed again"
            )
        if done:
            lines.append(f"{done} of {len(self.cache.chunks)} files of cached features are used")
        return lines

    def fit(self, on_row: Callable[[int, int], None], learning_curve: bool = False) -> str:
        """Compute the features, fit, and write the files; returns how it ended.

        Raises `DataError` for features that are NaN or Inf, and where no video of a class, or no
        validation video, can be read.
        """
        import signal

        start, stop = time.perf_counter(), StopSignals()
        state: dict[str, Any] = {}
        self.callbacks.on_run_begin(self._run_info())
        with reported_end(self.callbacks, state):
            with stop.handled(), self.decoders:
                stopped = self.cache.compute(self.group, lambda: stop.received, on_row)
            if stopped:
                state["ended"] = "interrupted" if stopped == signal.SIGINT else "terminated"
                return str(state["ended"])
            self.group.run_on_main(lambda: self._fit_and_write(start, learning_curve))
            if self.group.is_main_process:
                self.callbacks.on_epoch_end(self.row)
            state.update(ended="all epochs done", best=self.row)
        return "done"

    def _run_info(self) -> RunInfo:
        plan = self.plan
        train, validation = plan.split.train.samples, plan.split.validation.samples
        return RunInfo(self.folder, plan.fingerprint(), len(train), len(validation), 0, 0)

    def _fit_and_write(self, start: float, learning_curve: bool) -> None:
        features = self.cache.load()
        made = FeatureFit(self.plan, features)
        made.check_classes()
        fits = made.fit(made.training)
        self.penalties = {name: fit.l2 for name, fit in fits.items()}
        validated = self._validate(features, fits)
        if learning_curve:
            self.curve = self._learning_curve(made)
        tensors = {**self.tensors, **made.tensors(fits)}
        self.row = {
            "epoch": 1,
            "step": 0,
            "lr": 0.0,
            **made.training_columns(fits),
            **validated.to_row(),
            "val_failed_videos": validated.failed_videos,
            "padded_clips": 0,
            "epoch_time": round(time.perf_counter() - start, 3),
            "data_time": 0.0,
        }
        self.artifacts.write_epoch([self.row], tensors, True, features.failed)

    def _validate(self, features: Features, fits: Mapping[str, LinearFit]) -> ValidationResult:
        videos = self._score(features, fits)
        return result_of(videos, self.plan.split.validation, self.plan.multi_label)

    def _score(self, features: Features, fits: Mapping[str, LinearFit]) -> list[ScoredVideo]:
        """The validation videos that were read, with their probabilities."""
        from vtcli.data.samples import labels_by_head

        dataset = self.plan.split.validation
        chosen = [n for n, row in enumerate(features.rows) if not row.training]
        features_ND = features.values[chosen]
        logits = [fit.logits(features_ND) for fit in fits.values()]
        alone = self.plan.multi_label
        scores = [(z.sigmoid() if alone else z.softmax(1)).numpy() for z in logits]
        videos = []
        for place, row in enumerate(features.rows[n] for n in chosen):
            labels = labels_by_head(dataset.samples[row.number], len(fits))
            videos.append(ScoredVideo(labels, tuple(part[place] for part in scores)))
        return videos

    def _learning_curve(self, made: FeatureFit) -> list[CurvePoint]:
        """Accuracy after fitting to the first part of each class's videos."""
        train, features = self.plan.split.train, made.features
        numbers = list(dict.fromkeys(features.rows[n].number for n in made.training))
        points = []
        for fraction in CURVE_FRACTIONS:
            kept = first_part(train, numbers, fraction)
            rows = [n for n in made.training if features.rows[n].number in kept]
            scored = self._score(features, made.fit(rows))
            points.append(self._point(fraction, len(kept), scored))
        return points

    def _point(self, fraction: float, videos: int, scored: Sequence[ScoredVideo]) -> CurvePoint:
        dataset, alone = self.plan.split.validation, self.plan.multi_label
        validated = result_of(scored, dataset, alone)
        if alone and validated.mean_ap is not None:
            low, high = mean_ap_interval(
                np.stack([video.probabilities[0] for video in scored]),
                [video.labels[0] for video in scored],
            )
            return CurvePoint(fraction, videos, None, validated.mean_ap, low, high)
        interval = wilson_interval(validated.top1 * len(scored), len(scored))
        assert interval is not None  # `result_of` refuses a validation without videos
        return CurvePoint(fraction, videos, validated.top1, None, interval.low, interval.high)

    def outcome(self) -> dict[str, Any]:
        """The result, JSON-able."""
        from dataclasses import asdict

        return {
            "ended": "classifier fitted to cached features",
            "best": self.row,
            "unbalanced": is_unbalanced(self.plan.split.train),
            "val_videos": len(self.plan.split.validation.samples),
            "views": views_per_video(len(self.plan.split.train.samples)),
            "l2": self.penalties,
            "learning_curve": [asdict(point) for point in self.curve],
            "files": self.artifacts.files(),
            "warnings": training_warnings(self.plan, [self.row]),
        }


def _check_linear(model: nn.Module, plan: TrainPlan) -> None:
    """Raise `UsageError` where the classifier is not one linear layer on `features`."""
    if not is_linear(model, plan):
        raise UsageError(
            f"the classifier of {plan.model_init.architecture.title} is not one linear layer on "
            "its features; train it step by step with --trainable head --epochs 10"
        )
