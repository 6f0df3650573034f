"""What the networks of this package have in common besides layers: a new classifier, and saving.

A network knows no file format: it is written by its model card (`Card.write`).
Legend: C features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vtcli.errors import UsageError
from vtcli.models.protocol import Card

HEAD_STD = 0.02


class VideoNetwork(nn.Module):
    """A network with one linear classifier, `head`, on what `features` returns.

    `card` describes the weights, `labels` are the class names in the order of the logits (empty
    where they are not known), `dtype` is the type that clips must have.
    """

    config: Any
    head: nn.Linear
    card: Card | None = None
    labels: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32

    def reset_classifier(self, classes: int | Sequence[str]) -> None:
        """Replace the classifier by a new one [K,C], with random weights (normal, std 0.02).

        classes: their number, or their names in the order of the logits. Several heads become one.
        `config`, `labels` and `card` follow. Raises `UsageError` for no classes or a name twice.

        >>> model = vtcli.load_model("uniformerv2-nano")
        >>> model.reset_classifier(["clap", "wave", "jump"])
        >>> model.labels, model.head.out_features
        (('clap', 'wave', 'jump'), 3)
        """
        labels = () if isinstance(classes, int) else tuple(classes)
        count = classes if isinstance(classes, int) else len(labels)
        if count < 1:
            raise UsageError(f"a classifier has at least one class, not {count}")
        if len(set(labels)) < len(labels):
            raise UsageError("a class name is given twice; every class has a name of its own")
        old = self.head.weight
        self.head = nn.Linear(old.shape[1], count, device=old.device, dtype=old.dtype)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)
        several = {"heads": ()} if getattr(self.config, "heads", ()) else {}
        self.config = replace(self.config, num_classes=count, **several)
        self.labels = labels
        if self.card is not None:
            self.card = self.card.with_classes(count, labels, self.config)

    def save(self, path: Any) -> None:
        """Write the weights and the model card to a .safetensors file, which every command takes.

        Raises `UsageError` for a network that has no card: one of `create_model` for a published
        size without a checkpoint. Raises `DataError` where the file cannot be written.

        >>> model = vtcli.load_model("uniformerv2-nano")
        >>> model.save("mine.safetensors")
        >>> vtcli.load_model("mine.safetensors").labels == model.labels
        True
        """
        if self.card is None:
            raise UsageError("this network has no model card to save; begin with a checkpoint's id")
        self.card.write(path, self.state_dict())
