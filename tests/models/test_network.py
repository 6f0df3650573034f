"""A network of any architecture takes a new classifier, and comes back as it was saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vtcli
from tests.evaluation.harness import model_file
from vtcli.errors import UsageError

NANOS = ("uniformerv2-nano", "videoswin-nano", "vivit-nano", "xvit-nano")


@pytest.mark.parametrize("name", NANOS)
def test_a_new_classifier_is_saved_with_its_classes(name: str, tmp_path: Path) -> None:
    model = vtcli.load_model(name)
    clip = torch.rand(1, 3, model.config.num_frames, 32, 32)
    with torch.inference_mode():
        before = model.features(clip)
        model.reset_classifier(["clap", "wave", "jump"])
        assert torch.equal(model.features(clip), before)
        logits = model(clip)
    assert logits.shape == (1, 3)
    model.save(tmp_path / "new" / "mine.safetensors")
    again = vtcli.load_model(tmp_path / "new" / "mine.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(again(clip), logits, atol=1e-6, rtol=0)
    assert again.labels == ("clap", "wave", "jump")
    assert again.card.pretrain == f"{name}.motion8"
    assert (again.card.id, again.card.top1) == ("", None)


def test_classes_may_be_a_number_and_must_be_different(tmp_path: Path) -> None:
    model = vtcli.load_model("vivit-nano")
    model.reset_classifier(2)
    assert model.labels == ()
    model.save(tmp_path / "two.safetensors")
    assert vtcli.load_model(tmp_path / "two.safetensors").labels == ("class 0", "class 1")
    for classes, said in ((0, "at least one class"), (["a", "a"], "twice")):
        with pytest.raises(UsageError, match=said):
            model.reset_classifier(classes)
    with pytest.raises(UsageError, match="no model card"):
        vtcli.create_model("vivit-l", depth=1, width=64, num_heads=1).save(
            tmp_path / "none.safetensors"
        )


def test_two_classifiers_become_one(tmp_path: Path) -> None:
    heads = {"verb": ("take", "put"), "noun": ("cup", "pan", "lid")}
    model = vtcli.load_model(model_file(tmp_path / "two.safetensors", heads))
    model.reset_classifier(["a", "b"])
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 8, 32, 32)).shape == (1, 2)
    model.save(tmp_path / "one.safetensors")
    assert [h.name for h in vtcli.load_model(tmp_path / "one.safetensors").card.heads] == ["action"]
