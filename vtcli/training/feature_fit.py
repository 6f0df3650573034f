"""Linear classifiers fitted to the features of a frozen backbone: of `--trainable head`, and the
start of fine-tuning (`head_start`).

Legend: N rows (a view of a video each), D features, K classes of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError
from vtcli.models.recipe import Recipe
from vtcli.runtime.logistic import CROSS_ENTROPY, LinearFit, Loss
from vtcli.training.features import Features
from vtcli.training.linear_probe import fit_classifier
from vtcli.training.objective import Objective
from vtcli.training.plan import TrainPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

LOGIT_ERROR = 0.01
"""Relative to the largest logit: that of rounding stays well below, on a GPU too."""


class FeatureFit:
    """Fits a classifier per head of a plan to rows of `features`."""

    def __init__(self, plan: TrainPlan, features: Features) -> None:
        self.plan, self.features = plan, features
        self.objective = Objective(plan.heads, Recipe(), plan.class_weights, plan.multi_label)
        self.training = [n for n, row in enumerate(features.rows) if row.training]
        """The rows of training videos."""

    def check_classes(self) -> None:
        """Raise `DataError` where a class has no training video that could be read."""
        absent = [0]
        if self.training:
            absent = (self._targets(self.training).sum(0) == 0).nonzero()[:, 0].tolist()
        if absent:
            raise DataError(
                f"none of the training videos of class '{self.plan.labels[absent[0]]}' can be "
                "read; see vt datasets check"
            )

    def _targets(self, chosen: Sequence[int]) -> Tensor:
        """Target probabilities [N,K] of all heads, concatenated."""
        samples = self.plan.split.train.samples
        return self.objective.targets([samples[self.features.rows[n].number] for n in chosen])

    def fit(self, chosen: Sequence[int]) -> dict[str, LinearFit]:
        """A classifier per head, fitted to the chosen rows of training videos."""
        target_NK, loss = self._targets(chosen), CROSS_ENTROPY
        if self.plan.multi_label:
            loss = Loss(alone=True, weights=self.objective.weight_K)
        else:
            target_NK = self.objective.weighted(target_NK)
        targets = target_NK.split(self.objective.sizes, 1)
        split, rows = self.plan.split, self.features.rows
        groups = [split.group_of(split.train.samples[rows[n].number]) for n in chosen]
        features_ND = self.features.values[list(chosen)]
        return {
            name: fit_classifier(features_ND, of_head_NK, groups, loss=loss)
            for name, of_head_NK in zip(self.plan.heads, targets, strict=True)
        }

    def tensors(self, fits: Mapping[str, LinearFit]) -> dict[str, Tensor]:
        """The network's classifier: weight and bias of all heads, by tensor name."""
        import torch

        weight, bias = self.plan.model_init.architecture.head_tensors
        weight_KD = torch.cat([fit.weight for fit in fits.values()])
        bias_K = torch.cat([fit.bias for fit in fits.values()])
        return {weight: weight_KD.float(), bias: bias_K.float()}

    def training_columns(self, fits: Mapping[str, LinearFit]) -> dict[str, Any]:
        """The columns of history.csv that describe the training videos."""
        import torch

        features_ND = self.features.values[self.training]
        logits_NK = torch.cat([fit.logits(features_ND) for fit in fits.values()], 1)
        target_NK, clips = self._targets(self.training), len(self.training)
        read = {self.features.rows[n].number for n in self.training}
        return {
            "train_loss": float(self.objective.loss(logits_NK, target_NK).mean()),
            "train_top1": float(self.objective.correct(logits_NK, target_NK)) / clips,
            "train_clips": clips,
            "failed_videos": len(self.plan.split.train.samples) - len(read),
        }


def is_linear(model: nn.Module, plan: TrainPlan) -> bool:
    """Whether the classifier is one linear layer on `features`, tried with random weights; those of
    the model stay as they are.
    """
    import torch

    p, names = plan.model_init.pipeline, plan.model_init.architecture.head_tensors
    parameters = [model.get_parameter(name) for name in names]
    if [parameter.ndim for parameter in parameters] != [2, 1]:
        return False
    weight, bias = parameters
    was_training = model.training
    model.eval()
    clip_B3TSS = torch.zeros(1, 3, p.frames, p.crop_size, p.crop_size, device=weight.device)
    with torch.inference_mode():
        feature_BD = model.features(clip_B3TSS)  # type: ignore[operator]
    with torch.no_grad(), _random(parameters):
        logits: Any = model(clip_B3TSS)
        logits_BK = torch.cat(list(logits.values()), 1) if isinstance(logits, dict) else logits
        same = weight.shape[1] == feature_BD.shape[1]
        again_BK = feature_BD @ weight.T + bias if same else logits_BK + 1
    model.train(was_training)
    if not logits_BK.isfinite().all():
        return True  # the features name the videos, or the weights, later
    scale = float(logits_BK.abs().max().clamp_min(1.0))
    return float((again_BK - logits_BK).abs().max()) < LOGIT_ERROR * scale


@contextmanager
def _random(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Other values meanwhile, since those of a new classifier are all zero."""
    import torch

    generator = torch.Generator().manual_seed(0)
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    try:
        yield
    finally:
        for parameter, values in zip(parameters, before, strict=True):
            parameter.copy_(values)
