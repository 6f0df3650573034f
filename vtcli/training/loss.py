"""Which loss a training has: one class per video, or each class decided alone (multi-label)."""

from __future__ import annotations

from dataclasses import replace

from vtcli.data.splits import TrainValSplit
from vtcli.errors import UsageError
from vtcli.models.recipe import Recipe
from vtcli.training.init import ModelInit
from vtcli.video.pipeline import MULTI_LABEL


def several_labels(split: TrainValSplit) -> bool:
    """Whether a training video of a dataset with one label column has several classes."""
    one_head = len(split.train.classes) == 1
    return one_head and any(len(sample.labels) > 1 for sample in split.train.samples)


def with_loss(model_init: ModelInit, split: TrainValSplit, recipe: Recipe) -> ModelInit:
    """The same with a pipeline that says whether its classes exclude each other.

    They do not with `--loss bce`, and by default where a training video has several labels. Raises
    `UsageError` for several label columns with `--loss bce`.
    """
    if recipe.loss == "bce" and len(split.train.classes) > 1:
        raise UsageError("--loss bce needs a dataset with one label column; leave it out")
    alone = recipe.loss == "bce" or (recipe.loss == "auto" and several_labels(split))
    pipeline = model_init.pipeline
    if pipeline.multi_label == alone:
        return model_init
    fusion = MULTI_LABEL if alone else "mean_prob"
    return replace(model_init, pipeline=replace(pipeline, view_fusion=fusion))
