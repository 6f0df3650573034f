"""Networks by name: fresh ones describe themselves as loaded ones do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtcli
from vtcli.errors import UnknownModelError, UsageError
from vtcli.synthetic.motion8 import MOTIONS
from vtcli.weights.registry import load_registry

NANO = ("uniformerv2-nano", "videoswin-nano", "vivit-nano", "xvit-nano")


@pytest.mark.parametrize("name", NANO)
def test_a_fresh_model_has_the_classes_of_its_checkpoint(name: str) -> None:
    fresh: Any = vtcli.create_model(name)
    loaded: Any = vtcli.load_model(name)
    assert fresh.labels == loaded.labels == tuple(sorted(MOTIONS))
    assert fresh.config == loaded.config
    assert [(h.name, h.size, h.labels) for h in fresh.card.heads] == [
        (h.name, h.size, h.labels) for h in loaded.card.heads
    ]
    assert fresh.card.pipeline == loaded.card.pipeline
    assert fresh.dtype == loaded.dtype == torch.float32
    clip = torch.zeros(1, 3, fresh.config.num_frames, 32, 32)
    with torch.inference_mode():
        assert fresh.eval()(clip).shape == (1, len(MOTIONS))


@pytest.mark.parametrize("name", NANO)
def test_the_card_of_a_fresh_model_does_not_claim_trained_weights(name: str) -> None:
    card = vtcli.create_model(name).card
    assert (card.id, card.top1, card.top5, dict(card.source)) == ("", None, None, {})


def test_an_id_and_its_alias_give_the_same_model() -> None:
    by_alias: Any = vtcli.create_model("vivit-nano")
    by_id: Any = vtcli.create_model("vivit-nano.motion8")
    assert by_alias.config == by_id.config
    assert by_alias.card == by_id.card


@pytest.mark.parametrize("name", NANO)
def test_another_number_of_classes_overrides_those_of_the_checkpoint(name: str) -> None:
    model: Any = vtcli.create_model(name, num_classes=5)
    assert model.config.num_classes == 5
    assert model.labels == ()
    assert [(head.name, head.size) for head in model.card.heads] == [("action", 5)]
    assert model.card.dataset == ""
    same: Any = vtcli.create_model(name, num_classes=len(MOTIONS))
    assert same.labels == tuple(sorted(MOTIONS))
    with pytest.raises(UsageError, match="at least one class, not 0"):
        vtcli.create_model(name, num_classes=0)


def test_several_heads_are_those_of_the_checkpoint() -> None:
    with torch.device("meta"):
        model: Any = vtcli.create_model(
            "vivit-nano", num_classes=5, heads=(("noun", 3), ("verb", 2))
        )
    assert [(head.name, head.size) for head in model.card.heads] == [("noun", 3), ("verb", 2)]
    entry = load_registry().find("vivit-l-fe.epic100-32f")
    assert len(entry.labels) == entry.num_classes == 397


def test_a_published_model_without_a_checkpoint_has_no_labels() -> None:
    model: Any = vtcli.create_model("vivit-b-fsa", width=48, depth=1, num_heads=2)
    assert (model.labels, model.card) == ((), None)
    with pytest.raises(UnknownModelError, match="unknown model 'vivit-x'; did you mean"):
        vtcli.create_model("vivit-x")
    with pytest.raises(UsageError, match="its fields are"):
        vtcli.create_model("vivit-nano", hight=3)
