"""What a clip is trained towards: smoothed targets, mixup and CutMix (timm's), and the loss.

Legend: B clips, T frames, S side of a frame, K classes of all heads, concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtcli.data.augment import seeded_globals
from vtcli.data.samples import Sample, labels_by_head
from vtcli.models.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor


class Objective:
    """Targets and loss of a network with these heads (name -> number of classes).

    `class_weights` [K] are factors of the classes in the loss; None: 1. With `multi_label`, each
    class is decided alone: targets are 0 or 1, without smoothing.
    """

    def __init__(
        self,
        heads: Mapping[str, int],
        recipe: Recipe,
        class_weights: Sequence[float] | None = None,
        multi_label: bool = False,
    ) -> None:
        import torch

        self.sizes = list(heads.values())
        self.smoothing, self.multi_label = recipe.smoothing, multi_label
        self.weight_K = None if class_weights is None else torch.tensor(class_weights)
        self.mixup: Any = None
        if recipe.mixup or recipe.cutmix:
            from timm.data import Mixup

            self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=0.0)

    def targets(self, samples: Sequence[Sample]) -> Tensor:
        """Target probabilities [B,K] of each sample."""
        import torch

        return torch.stack([self._target(sample) for sample in samples])

    def _target(self, sample: Sample) -> Tensor:
        """Target probabilities [K], smoothed within each head."""
        import torch

        if self.multi_label:
            target_K = torch.zeros(sum(self.sizes))
            target_K[list(sample.labels)] = 1.0
            return target_K
        parts = []
        labels_of_heads = labels_by_head(sample, len(self.sizes))
        for size, labels in zip(self.sizes, labels_of_heads, strict=True):
            target_K = torch.full((size,), self.smoothing / size)
            target_K[list(labels)] += (1 - self.smoothing) / len(labels)
            parts.append(target_K)
        return torch.cat(parts)

    def mix(self, clip_B3TSS: Tensor, target_BK: Tensor, seed: int) -> None:
        """Apply mixup or CutMix to clips and targets in place, where the recipe has them."""
        import torch

        if self.mixup is None or len(clip_B3TSS) < 2:
            return
        # timm pairs a batch with its reverse; the last clip of an odd batch stays unmixed.
        even = len(clip_B3TSS) - len(clip_B3TSS) % 2
        self.mixup.num_classes = even
        # timm cuts boxes out of images [B,C,H,W]: a clip is passed as an image of 3·T channels.
        image_BCSS = clip_B3TSS[:even].flatten(1, 2)
        with seeded_globals(seed):
            _, fraction_BB = self.mixup(image_BCSS, torch.arange(even).to(clip_B3TSS.device))
        target_BK[:even] = fraction_BB.to(target_BK) @ target_BK[:even]

    def weighted(self, target_BK: Tensor) -> Tensor:
        """The targets times the weights of their classes."""
        return target_BK if self.weight_K is None else target_BK * self.weight_K.to(target_BK)

    def loss(self, logits_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Cross-entropy of each clip, summed over the heads: [B]; with `multi_label` the binary
        cross-entropy, the mean over the classes.

        A class weight multiplies the term of its class, as in `torch.nn.CrossEntropyLoss`.
        """
        if self.multi_label:
            from torch.nn.functional import binary_cross_entropy_with_logits

            weight_K = None if self.weight_K is None else self.weight_K.to(logits_BK)
            return binary_cross_entropy_with_logits(
                logits_BK, target_BK, weight_K, reduction="none"
            ).mean(1)
        target_BK = self.weighted(target_BK)
        parts = zip(logits_BK.split(self.sizes, 1), target_BK.split(self.sizes, 1), strict=True)
        return sum(-(target * z.log_softmax(1)).sum(1) for z, target in parts)

    def correct(self, logits_BK: Tensor, target_BK: Tensor) -> Tensor:
        """Number of correct clips, averaged over the heads: a scalar.

        With `multi_label`, those whose most probable class is one of theirs.
        """
        if self.multi_label:
            best_B1 = logits_BK.argmax(1, keepdim=True)
            return (target_BK.gather(1, best_B1) >= 0.5).sum()
        parts = zip(logits_BK.split(self.sizes, 1), target_BK.split(self.sizes, 1), strict=True)
        hits = [((z.argmax(1) == y.argmax(1)) & (y.sum(1) > 0)).sum() for z, y in parts]
        return sum(hits) / len(hits)
