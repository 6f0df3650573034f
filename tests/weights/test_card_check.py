"""A card from outside is checked against its file before anything is built from it."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vtcli.weights
from vtcli.errors import WeightsError
from vtcli.weights.load import load_model

OURS = Path(vtcli.weights.__file__).parent / "bundled" / "videoswin-nano.motion8.safetensors"
ESCAPES = "\x1b[2J\x1b]0;title\x07"


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a file of ours with another card."""
    data = OURS.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    card = json.loads(header["__metadata__"]["vt"])
    change(card)
    header["__metadata__"]["vt"] = json.dumps(card)
    text = json.dumps(header).encode()
    path = folder / "card.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


def refused(path: Path) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        load_model(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depths", [10**9]),
        ("depths", [10**6] * 4),
        ("depths", [50_000]),
        ("depths", [400, 400]),
        ("num_frames", 10**9),
        ("num_frames", -1),
        ("num_frames", 0),
        ("num_classes", 10**12),
        ("num_classes", 10**400),
        ("image_size", 10**6),
        ("image_size", [10**6, 1]),
        ("width", 10**7),
        ("num_heads", [0, 0]),
        ("window_size", [10**5] * 3),
        ("drop_path", float("nan")),
        ("mlp_ratio", 1e300),
        ("patch_size", [0, 0, 0]),
        ("patch_size", "x"),
        ("no_such_field", 1),
        ("image_size", "32"),
        ("num_frames", None),
        ("width", 1.5),
        ("num_heads", [3]),
        ("window_size", []),
        ("mlp_ratio", [4.0]),
        ("dropout", "x"),
        ("dropout", 1.5),
        ("num_classes", True),
        ("depths", [[[[1]]]] * 2000),
    ],
)
def test_a_configuration_that_no_network_has_is_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    message = refused(changed(tmp_path, lambda card: card["config"].update({field: value})))
    assert "card.safetensors" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frames", 10**8),
        ("stride", 10**12),
        ("stride", 0),
        ("crop_size", 100_000),
        ("short_side", 200_000),
        ("clips", 10**7),
        ("mean", [float("nan")] * 3),
        ("mean", [1e300] * 3),
        ("std", [0, 0, 0]),
    ],
)
def test_a_pipeline_that_no_checkpoint_has_is_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    refused(changed(tmp_path, lambda card: card["pipeline"].update({field: value})))


@pytest.mark.parametrize("field", ["id", "notes", "license", "dataset"])
def test_a_card_cannot_send_control_characters_to_a_terminal(tmp_path: Path, field: str) -> None:
    path = changed(tmp_path, lambda card: card.update({field: f"a{ESCAPES}"}))
    assert "control characters" in refused(path)


def test_a_label_cannot_send_control_characters_to_a_terminal(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda card: card["heads"][0]["labels"].__setitem__(0, ESCAPES))
    assert "control characters" in refused(path)


def test_the_classes_of_a_card_are_those_of_its_file(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda card: card["heads"][0].update(size=7))
    assert "8 labels" in refused(path)

    def drop_one(card: dict[str, Any]) -> None:
        card["heads"][0]["labels"].pop()
        card["heads"][0]["size"] -= 1

    assert "7 classes, but the file's classifier 8" in refused(changed(tmp_path, drop_one))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("id", -1), ("arch", []), ("model", {}), ("source", []), ("top1", "x"), ("heads", [[]])),
        *(("events", []), ("events", {"window": 1.0, "stride": "x", "rule": {}})),
        *(("events", {"window": 1, "stride": 1, "rule": {"on": 1e9}}), ("events", {"window": 1})),
        *(("source", {"facts": "x"}), ("source", {"warnings": {"a": 1}})),
    ],
)
def test_a_field_of_another_type_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    refused(changed(tmp_path, lambda card: card.update({field: value})))


def test_a_profile_counts_only_a_network_that_the_file_holds(tmp_path: Path) -> None:
    from vtcli.profiling import select_models

    for values in ({"width": 96}, {"num_heads": [5, 7]}):
        path = changed(tmp_path, lambda card, v=values: card["config"].update(v))
        with pytest.raises(WeightsError, match=r"card\.safetensors"):
            select_models([str(path)])
