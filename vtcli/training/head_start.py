"""The start of fine-tuning: before the first epoch a new classifier is fitted to features of the
backbone, as `--trainable head` does (linear probing, then fine-tuning; Kumar et al., arXiv
2202.10054).

With a classifier of zeros or of random values, the first steps change features that were good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError
from vtcli.runtime.distributed import Group
from vtcli.training.feature_fit import FeatureFit, is_linear
from vtcli.training.features import FeatureCache, Features, views_per_video
from vtcli.training.plan import TrainPlan
from vtcli.video.decode_pool import DecodePool

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class HeadStart:
    """The fitted classifier by tensor name, the columns of history.csv that describe it, and the
    videos that could not be read (path -> error).
    """

    tensors: Mapping[str, Tensor]
    columns: Mapping[str, Any]
    failed: Mapping[str, str]


def start_clips(plan: TrainPlan) -> int:
    """The clips whose features are computed before the first epoch; 0 for a start at zero."""
    if not plan.fits_start:
        return 0
    train, validation = plan.split.train.samples, plan.split.validation.samples
    return len(train) * views_per_video(len(train)) + len(validation)


@dataclass(frozen=True)
class StartWork:
    """The fit of a new classifier for a training in `folder`; a run that is killed keeps the
    features computed so far.
    """

    plan: TrainPlan
    folder: Path
    group: Group
    decoders: DecodePool
    workers: int

    def run(
        self,
        model: nn.Module,
        stopped: Callable[[], int],
        on_clip: Callable[[int, int], None],
    ) -> tuple[int, HeadStart | None]:
        """The number of a signal that stopped it, or 0, and the classifier for `model`.

        There is none where it was stopped, where the classifier of the network is not one linear
        layer on its features, and where no video of a class can be read: then it stays at zero.
        `on_clip` is called with the clips done and all clips. Raises `DataError` for features that
        are NaN or Inf.
        """
        import torch

        if not is_linear(model, self.plan):
            return 0, None
        model.eval()
        cache = FeatureCache(
            self.plan, self.folder, model, torch.float32, self.decoders, self.workers
        )
        if number := cache.compute(self.group, stopped, on_clip):
            return number, None
        return 0, self.group.run_on_main(lambda: _fit(self.plan, cache.load()))


def _fit(plan: TrainPlan, features: Features) -> HeadStart | None:
    made = FeatureFit(plan, features)
    try:
        made.check_classes()
    except DataError:
        return None
    fits = made.fit(made.training)
    columns = {"lr": 0.0, **made.training_columns(fits)}
    return HeadStart(made.tensors(fits), columns, features.failed)
