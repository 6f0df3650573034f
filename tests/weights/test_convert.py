"""A checkpoint becomes ours whole and in the right class order, or not at all, with a reason."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vtcli
from tests import tiny
from vtcli.errors import (
    DataError,
    InputError,
    LayoutError,
    UnsafeFileError,
    UsageError,
    WeightsError,
)
from vtcli.labels import load_labels, load_permutation
from vtcli.weights.checkpoint import open_tensors, read_card, write_checkpoint
from vtcli.weights.convert import convert
from vtcli.weights.export_upstream import export
from vtcli.weights.formats.readers import read_checkpoint


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return tiny.official_file(tmp_path / "tiny.pyth")


@pytest.fixture(autouse=True)
def _registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.registry_file(tmp_path / "own.toml", tiny.local_source(tmp_path / "tiny.pyth"))
    monkeypatch.setenv("VT_REGISTRY", str(path))


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_the_head_comes_out_in_the_rows_own_class_order(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "ours.safetensors"
    report = convert(src, dst, model="tiny.k400-8f", verify=True)
    theirs, ours, card = tiny.official(), open_tensors(dst), read_card(dst)
    their_labels = load_labels("k400.uniformerv2")
    for index, label in enumerate(card.labels):
        row = their_labels.index(label)
        assert torch.equal(
            ours["head.weight"][index], theirs["backbone.transformer.proj.2.weight"][row]
        )
        assert torch.equal(
            ours["head.bias"][index], theirs["backbone.transformer.proj.2.bias"][row]
        )
    assert card.labels == load_labels("k400")
    assert report.verified == len(ours)


def test_our_file_says_all_about_itself(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "ours.safetensors"
    convert(src, dst, model="tiny.k400-8f")
    card = read_card(dst)
    assert (card.id, card.arch, card.dataset) == ("tiny.k400-8f", "uniformerv2", "k400")
    assert card.config["num_frames"] == 8
    assert card.pipeline.crop_size == 32
    assert card.source["sha256"]
    assert card.source["layout"] == "official"
    assert card.license == "Apache-2.0"


@pytest.mark.parametrize("layout", ["official", "mmaction2"])
def test_ours_to_a_layout_and_back_is_bit_exact(src: Path, tmp_path: Path, layout: str) -> None:
    ours, theirs, again = (tmp_path / n for n in ("a.safetensors", "b.pth", "c.safetensors"))
    convert(src, ours, model="tiny.k400-8f")
    export(ours, theirs, layout, verify=True)
    convert(theirs, again, model="tiny.k400-8f", layout=layout)
    first, second = open_tensors(ours), open_tensors(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_layout_is_written_in_its_own_class_order(src: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    convert(src, ours, model="tiny.k400-8f")
    export(ours, tmp_path / "off.pyth", "official")
    back = torch.load(tmp_path / "off.pyth", weights_only=True)
    assert all(torch.equal(back[name], tensor) for name, tensor in tiny.official().items())
    export(ours, tmp_path / "mm.pth", "mmaction2")
    mm = torch.load(tmp_path / "mm.pth", weights_only=True)["state_dict"]
    index = torch.tensor(load_permutation("uniformerv2_to_alpha_k400"))
    theirs = tiny.official()["backbone.transformer.proj.2.weight"]
    assert torch.equal(mm["cls_head.fc_cls.weight"], theirs[index])


@pytest.mark.parametrize("nest", ["model_state", "state_dict"])
def test_training_checkpoints_are_read_by_their_weights(tmp_path: Path, nest: str) -> None:
    from argparse import Namespace

    import numpy as np

    content = {nest: tiny.official(), "epoch": 3, "cfg": "a: 1", "meta": Namespace(x=np.float64(1))}
    src = saved(tmp_path / "training.pyth", content)
    assert convert(src, tmp_path / "o.safetensors", model="tiny.k400-8f").wrapper_keys == nest


def test_a_known_digest_names_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    src = tiny.official_file(tmp_path / "renamed.bin")
    digest = hashlib.sha256(src.read_bytes()).hexdigest()
    row = tiny.registry_file(tmp_path / "known.toml", tiny.local_source(src, digest))
    monkeypatch.setenv("VT_REGISTRY", str(row))
    assert convert(src, tmp_path / "o.safetensors").model == "tiny.k400-8f"


def test_without_a_source_for_the_order_no_label_is_guessed(src: Path, tmp_path: Path) -> None:
    convert(src, tmp_path / "o.safetensors")
    assert read_card(tmp_path / "o.safetensors").labels[17] == "class 17 (order unverified)"


def test_given_labels_name_the_files_own_rows(src: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(load_labels("k400.uniformerv2")))
    for model in (None, "tiny.k400-8f"):
        convert(src, tmp_path / "o.safetensors", model=model, labels=names)
        ours, card = open_tensors(tmp_path / "o.safetensors"), read_card(tmp_path / "o.safetensors")
        row = load_labels("k400.uniformerv2").index("petting cat")
        theirs = tiny.official()["backbone.transformer.proj.2.weight"]
        assert torch.equal(ours["head.weight"][card.labels.index("petting cat")], theirs[row])
        export(tmp_path / "o.safetensors", tmp_path / "b.pyth", "official")
        back = torch.load(tmp_path / "b.pyth", weights_only=True)
        assert torch.equal(back["backbone.transformer.proj.2.weight"], theirs)


def test_labels_can_be_given(src: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"action {i}" for i in range(400)))
    convert(src, tmp_path / "o.safetensors", labels=names)
    assert read_card(tmp_path / "o.safetensors").labels[17] == "action 17"
    names.write_text("one\ntwo")
    with pytest.raises(DataError, match="2 names, but the checkpoint has 400"):
        convert(src, tmp_path / "p.safetensors", labels=names)


def _without(name: str) -> dict[str, Tensor]:
    return {n: t for n, t in tiny.official().items() if n != name}


NORM = "backbone.ln_pre.weight"
BROKEN: dict[str, tuple[Any, type[Exception], str]] = {
    "one tensor missing": (_without(NORM), LayoutError, "lacks the tensor 'norm_pre.weight'"),
    "one tensor mis-shaped": (
        {**tiny.official(), NORM: torch.ones(7)},
        LayoutError,
        r"'norm_pre.weight' has the shape \[7\], this model's is \[64\]",
    ),
    "one tensor too many": (
        {**tiny.official(), "backbone.extra": torch.ones(1)},
        LayoutError,
        "the tensor 'backbone.extra' that the official layout does not know",
    ),
    "NaN": (
        {**tiny.official(), NORM: torch.full((64,), float("nan"))},
        DataError,
        "'norm_pre.weight' has NaN",
    ),
    "another size": (
        tiny.official(config=vtcli.models.with_overrides(tiny.CONFIG, {"depth": 3})),
        LayoutError,
        "its depth is 3, not 2",
    ),
    "another class count": (
        tiny.official(config=vtcli.models.with_overrides(tiny.CONFIG, {"num_classes": 9})),
        LayoutError,
        "its num_classes is 9, not 400",
    ),
    "no known layout": ({"a.b": torch.ones(2)}, LayoutError, "in no layout that is known"),
    "no tensors": ({"epoch": 3}, WeightsError, "holds no tensors"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    content, error, words = BROKEN[case]
    folder = tmp_path / "out"
    with pytest.raises(error, match=words):
        convert(
            saved(tmp_path / "bad.pyth", content), folder / "o.safetensors", model="tiny.k400-8f"
        )
    assert not folder.exists() or not list(folder.iterdir())


class Runs:
    """A pickle that runs a command while it is read."""

    def __reduce__(self) -> Any:
        return os.system, ("touch was_run",)


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    src = saved(tmp_path / "evil.pyth", {"state_dict": tiny.official(), "x": Runs()})
    with pytest.raises(UnsafeFileError, match=r"wants to run '(posix|nt)\.system'"):
        convert(src, tmp_path / "o.safetensors", model="tiny.k400-8f")
    assert not (tmp_path / "was_run").exists()


def test_a_torchscript_archive_is_refused_with_the_name_of_a_safe_copy(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "clip.pt"))
    with pytest.raises(UnsafeFileError, match="openai/clip-vit-base-patch16"):
        read_checkpoint(tmp_path / "clip.pt")


def test_files_that_are_no_checkpoints_get_a_sentence(src: Path, tmp_path: Path) -> None:
    whole = src.read_bytes()
    cases = {
        "empty.pyth": (b"", WeightsError, "is empty"),
        "text.pyth": (b"this is no checkpoint, only words", WeightsError, "is no checkpoint file"),
        "half.pyth": (whole[: len(whole) // 2], WeightsError, "cut off or damaged"),
        "keras.h5": (b"\x89HDF\r\n\x1a\n" + b"0" * 30, WeightsError, "Keras"),
        "cut.safetensors": (
            b'\x99\x00\x00\x00\x00\x00\x00\x00{"a"',
            WeightsError,
            "broken safetensors",
        ),
    }
    for name, (content, error, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=words):
            convert(tmp_path / name, tmp_path / "o.safetensors")
    with pytest.raises(InputError, match="no checkpoint file"):
        convert(tmp_path / "nowhere.pyth", tmp_path / "o.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        convert(tmp_path, tmp_path / "o.safetensors")


def test_what_was_asked_must_be_what_the_file_is(src: Path, tmp_path: Path) -> None:
    with pytest.raises(
        LayoutError, match=r"in the official layout, not tiny\.k400-8f in the mmaction2"
    ):
        convert(src, tmp_path / "o.safetensors", model="tiny.k400-8f", layout="mmaction2")
    ours = tmp_path / "ours.safetensors"
    convert(src, ours, model="tiny.k400-8f")
    with pytest.raises(UsageError, match="converted already"):
        convert(ours, tmp_path / "o.safetensors")
    with pytest.raises(UsageError, match="it can as safetensors, official, mmaction2"):
        export(ours, tmp_path / "x", "scenic")


def test_a_registry_of_ones_own_names_files_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    tiny.official_file(folder / "my.pyth")
    (folder / "names.txt").write_text("\n".join(f"my action {i}" for i in range(400)))
    own = tiny.registry_file(folder / "own.toml", tiny.local_source(Path("my.pyth")))
    own.write_text(own.read_text().replace('labels = "k400"\n', 'labels = "names.txt"\n'))
    monkeypatch.setenv("VT_REGISTRY", str(own))
    assert "my action 17" in vtcli.load_model("tiny.k400-8f").labels


@pytest.mark.parametrize("dataset", ["k400", "k600", "k700"])
def test_a_k710_head_reads_out_as_its_parts(tmp_path: Path, dataset: str) -> None:
    config = vtcli.models.with_overrides(tiny.CONFIG, {"num_classes": 710})
    src = saved(tmp_path / "k710.pyth", tiny.official(config=config))
    convert(src, tmp_path / "k710.safetensors", labels="k710.mmaction2")
    card = read_card(tmp_path / "k710.safetensors")
    write_checkpoint(
        tmp_path / "named.safetensors",
        open_tensors(tmp_path / "k710.safetensors"),
        {"vt": replace(card, dataset="k710").to_json()},
    )
    whole = vtcli.load_model(tmp_path / "named.safetensors")
    part = vtcli.load_model(tmp_path / "named.safetensors", label_set=dataset)
    assert part.labels == load_labels(dataset)
    clip = torch.randn(1, 3, 8, 32, 32)
    rows = load_permutation(f"mmaction2_k710_to_alpha_{dataset}")
    with torch.inference_mode():
        assert torch.allclose(part(clip), whole(clip)[:, list(rows)], atol=1e-5)
    same = sum(whole.labels[row] == label for row, label in zip(rows, part.labels, strict=True))
    assert same >= len(rows) - 13  # the known renamings between Kinetics versions
    with pytest.raises(UsageError, match="not 'ucf101'"):
        vtcli.load_model(tmp_path / "named.safetensors", label_set="ucf101")
