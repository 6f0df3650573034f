"""Checkpoint files describe themselves; cards of the older format are still read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vtcli.errors import InputError, WeightsError
from vtcli.labels.heads import HeadSpec
from vtcli.weights.checkpoint import ModelCard, read_card

# A card as version 0.1 wrote it.
FORMAT_1: dict[str, Any] = {
    "id": "videoswin-t.k400-in1k-32f",
    "arch": "videoswin",
    "model": "videoswin-t",
    "config": {"num_frames": 32, "num_classes": 2},
    "heads": [{"name": "action", "size": 2, "labels": ["a", "b"], "confidence": "verified"}],
    "pipeline": {
        "sampling": "dense_loop_segment_centres",
        "frames": 32,
        "resize": "opencv_bilinear",
        "short_side": 224,
        "crop_size": 224,
        "crop_offset": "floor",
        "normalize": "raw_reciprocal",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "view_order": "crop_major",
        "score": "mean_prob",
        "clips": 4,
        "crops": 3,
        "stride": 2,
        "crop_order": "first_last_middle",
        "channel_order": "rgb",
    },
    "dataset": "k400",
    "source": {"address": "https://example.org/a.pth", "layout": "official", "permutation": ""},
    "pretrain": "ImageNet-1K",
    "top1": 78.8,
    "top5": 93.6,
    "metric": "top-1",
    "metric_source": "the authors' README",
    "license": "Apache-2.0",
    "notes": "",
    "created_with": "vtcli 0.1.0",
    "format": 1,
    "views": "4x3",
}


def file_with(path: Path, card: dict[str, Any]) -> Path:
    save_file({"a": np.zeros(2)}, path, metadata={"format": "pt", "vt": json.dumps(card)})
    return path


def test_a_card_of_format_1_is_read_and_written_with_the_keys_of_format_2(tmp_path: Path) -> None:
    card = read_card(file_with(tmp_path / "old.safetensors", FORMAT_1))
    assert card.pipeline.view_fusion == "mean_prob"
    assert card.pipeline.sampling == "dense_loop_segment_centers"
    assert card.heads == (HeadSpec("action", 2, ("a", "b"), "verified"),)
    written = json.loads(card.to_json())
    pipeline = {**FORMAT_1["pipeline"], "sampling": "dense_loop_segment_centers"}
    pipeline["view_fusion"] = pipeline.pop("score")
    assert written == {**FORMAT_1, "pipeline": pipeline, "format": 2}
    assert ModelCard.from_json(card.to_json()) == card


def test_the_error_for_a_card_of_a_newer_format_says_so(tmp_path: Path) -> None:
    path = file_with(tmp_path / "new.safetensors", {**FORMAT_1, "format": 3})
    with pytest.raises(WeightsError, match=r"new\.safetensors .* newer version of vtcli"):
        read_card(path)


def test_a_card_does_not_contain_the_path_of_a_label_list() -> None:
    card = ModelCard.from_json(json.dumps(FORMAT_1))
    head = HeadSpec("action", 2, ("a", "b"), "given", "/home/me/names.txt")
    text = ModelCard(**{**vars(card), "heads": (head,)}).to_json()
    assert "names.txt" not in text
    assert ModelCard.from_json(text).labels == ("a", "b")


@pytest.mark.parametrize("missing", ["format", "heads", "pipeline", "arch"])
def test_an_incomplete_card_is_refused(tmp_path: Path, missing: str) -> None:
    card = {key: value for key, value in FORMAT_1.items() if key != missing}
    with pytest.raises(WeightsError, match="model card"):
        read_card(file_with(tmp_path / "bad.safetensors", card))


def test_files_without_a_card_are_refused_with_a_reason(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(WeightsError, match=r"has no model card; convert it first: vt convert"):
        read_card(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        read_card(tmp_path / "text.safetensors")
    with pytest.raises(InputError, match="there is no file"):
        read_card(tmp_path / "missing.safetensors")
