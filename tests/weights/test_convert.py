"""A checkpoint is converted completely and in the right class order, or refused with a reason."""

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
from tests.weights.hf_models import torchvision_swin
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


def test_the_head_is_converted_to_the_class_order_of_the_entry(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "vt.safetensors"
    report = convert(src, dst, model="tiny.k400-8f", verify=True)
    upstream, vt, card = tiny.official(), open_tensors(dst), read_card(dst)
    upstream_labels = load_labels("k400.uniformerv2")
    for index, label in enumerate(card.labels):
        row = upstream_labels.index(label)
        assert torch.equal(
            vt["head.weight"][index], upstream["backbone.transformer.proj.2.weight"][row]
        )
        assert torch.equal(
            vt["head.bias"][index], upstream["backbone.transformer.proj.2.bias"][row]
        )
    assert card.labels == load_labels("k400")
    assert report.verified == len(vt)


def test_a_converted_file_describes_itself(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "vt.safetensors"
    convert(src, dst, model="tiny.k400-8f")
    card = read_card(dst)
    assert (card.id, card.arch, card.dataset) == ("tiny.k400-8f", "uniformerv2", "k400")
    assert card.config["num_frames"] == 8
    assert card.pipeline.crop_size == 32
    assert card.source["sha256"]
    assert card.source["layout"] == "official"
    assert card.license == "Apache-2.0"


@pytest.mark.parametrize("layout", ["official", "mmaction2"])
def test_exporting_to_a_layout_and_converting_back_is_bit_exact(
    src: Path, tmp_path: Path, layout: str
) -> None:
    vt, upstream, again = (tmp_path / n for n in ("a.safetensors", "b.pth", "c.safetensors"))
    convert(src, vt, model="tiny.k400-8f")
    export(vt, upstream, layout, verify=True)
    convert(upstream, again, model="tiny.k400-8f", layout=layout)
    first, second = open_tensors(vt), open_tensors(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_export_has_the_class_order_of_its_layout(src: Path, tmp_path: Path) -> None:
    vt = tmp_path / "vt.safetensors"
    convert(src, vt, model="tiny.k400-8f")
    export(vt, tmp_path / "off.pyth", "official")
    back = torch.load(tmp_path / "off.pyth", weights_only=True)
    assert all(torch.equal(back[name], tensor) for name, tensor in tiny.official().items())
    export(vt, tmp_path / "mm.pth", "mmaction2")
    mm = torch.load(tmp_path / "mm.pth", weights_only=True)["state_dict"]
    index = torch.tensor(load_permutation("uniformerv2_to_alpha_k400"))
    upstream = tiny.official()["backbone.transformer.proj.2.weight"]
    assert torch.equal(mm["cls_head.fc_cls.weight"], upstream[index])


@pytest.mark.parametrize("key", ["model_state", "state_dict"])
def test_the_weights_of_training_checkpoints_are_found(tmp_path: Path, key: str) -> None:
    from argparse import Namespace

    import numpy as np

    content = {key: tiny.official(), "epoch": 3, "cfg": "a: 1", "meta": Namespace(x=np.float64(1))}
    src = saved(tmp_path / "training.pyth", content)
    report = convert(src, tmp_path / "o.safetensors", model="tiny.k400-8f")
    assert report.wrapper_keys == key


def test_a_file_with_a_known_digest_needs_no_model_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    src = tiny.official_file(tmp_path / "renamed.bin")
    digest = hashlib.sha256(src.read_bytes()).hexdigest()
    known = tiny.registry_file(tmp_path / "known.toml", tiny.local_source(src, digest))
    monkeypatch.setenv("VT_REGISTRY", str(known))
    assert convert(src, tmp_path / "o.safetensors").model == "tiny.k400-8f"


def test_labels_are_not_guessed_if_no_source_states_the_class_order(
    src: Path, tmp_path: Path
) -> None:
    convert(src, tmp_path / "o.safetensors")
    assert read_card(tmp_path / "o.safetensors").labels[17] == "class 17 (order unverified)"


def test_given_labels_are_in_the_class_order_of_the_file(src: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(load_labels("k400.uniformerv2")))
    for model in (None, "tiny.k400-8f"):
        convert(src, tmp_path / "o.safetensors", model=model, labels=names)
        vt, card = open_tensors(tmp_path / "o.safetensors"), read_card(tmp_path / "o.safetensors")
        row = load_labels("k400.uniformerv2").index("petting cat")
        upstream = tiny.official()["backbone.transformer.proj.2.weight"]
        assert torch.equal(vt["head.weight"][card.labels.index("petting cat")], upstream[row])
        export(tmp_path / "o.safetensors", tmp_path / "b.pyth", "official")
        back = torch.load(tmp_path / "b.pyth", weights_only=True)
        assert torch.equal(back["backbone.transformer.proj.2.weight"], upstream)


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
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, case: str
) -> None:
    content, error, words = BROKEN[case]
    folder = tmp_path / "out"
    with pytest.raises(error, match=words):
        convert(
            saved(tmp_path / "bad.pyth", content), folder / "o.safetensors", model="tiny.k400-8f"
        )
    assert not folder.exists() or not list(folder.iterdir())


class Malicious:
    """Its pickle runs a command when it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("touch was_run",)


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    src = saved(tmp_path / "evil.pyth", {"state_dict": tiny.official(), "x": Malicious()})
    with pytest.raises(UnsafeFileError, match=r"would run '(posix|nt)\.system'"):
        convert(src, tmp_path / "o.safetensors", model="tiny.k400-8f")
    assert not (tmp_path / "was_run").exists()


def test_the_error_for_a_torchscript_archive_names_a_safe_alternative(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "clip.pt"))
    with pytest.raises(UnsafeFileError, match="openai/clip-vit-base-patch16"):
        read_checkpoint(tmp_path / "clip.pt")


def test_the_error_for_a_file_that_is_not_a_checkpoint_says_why(src: Path, tmp_path: Path) -> None:
    whole = src.read_bytes()
    cases = {
        "empty.pyth": (b"", WeightsError, "is empty"),
        "text.pyth": (b"not a checkpoint, just text", WeightsError, "is not a checkpoint file"),
        "half.pyth": (whole[: len(whole) // 2], WeightsError, "truncated or damaged"),
        "keras.h5": (b"\x89HDF\r\n\x1a\n" + b"0" * 30, WeightsError, "Keras"),
        "cut.safetensors": (
            b'\x99\x00\x00\x00\x00\x00\x00\x00{"a"',
            WeightsError,
            "damaged safetensors",
        ),
    }
    for name, (content, error, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=words):
            convert(tmp_path / name, tmp_path / "o.safetensors")
    with pytest.raises(InputError, match="no checkpoint file"):
        convert(tmp_path / "nowhere.pyth", tmp_path / "o.safetensors")
    with pytest.raises(WeightsError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        convert(tmp_path, tmp_path / "o.safetensors")


def test_a_file_that_is_not_what_was_asked_for_is_refused(src: Path, tmp_path: Path) -> None:
    with pytest.raises(
        LayoutError, match=r"in the official layout, not tiny\.k400-8f in the mmaction2"
    ):
        convert(src, tmp_path / "o.safetensors", model="tiny.k400-8f", layout="mmaction2")
    vt = tmp_path / "vt.safetensors"
    convert(src, vt, model="tiny.k400-8f")
    with pytest.raises(UsageError, match="already converted"):
        convert(vt, tmp_path / "o.safetensors")
    with pytest.raises(UsageError, match="known are safetensors, official, mmaction2"):
        export(vt, tmp_path / "x", "scenic")


def test_paths_in_a_users_registry_are_relative_to_its_folder(
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
def test_a_k710_head_can_be_restricted_to_each_subset(tmp_path: Path, dataset: str) -> None:
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
    assert same >= len(rows) - 13  # classes renamed between Kinetics versions
    with pytest.raises(UsageError, match="not 'ucf101'"):
        vtcli.load_model(tmp_path / "named.safetensors", label_set="ucf101")


def test_an_unverified_source_is_used_only_with_the_digest_of_the_official_tensors(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtcli.errors import DigestError, FetchError
    from vtcli.weights.load import load_model

    known = convert(src, tmp_path / "o.safetensors", model="tiny.k400-8f", verify=True)
    port = tiny.official_file(tmp_path / "port.pyth")
    source = tiny.local_source(port) + "unverified = true"
    monkeypatch.setenv("VT_CACHE", str(tmp_path / "cache"))

    def use(digest: str) -> None:
        path = tiny.registry_file(tmp_path / f"{digest[:4]}.toml", source)
        line = f'license = "Apache-2.0"\ntensors_sha256 = "{digest}"'
        path.write_text(path.read_text().replace('license = "Apache-2.0"', line))
        monkeypatch.setenv("VT_REGISTRY", str(path))
        load_model("tiny.k400-8f")

    with pytest.raises(FetchError, match="not proven to have the published weights"):
        use("")
    with pytest.raises(DigestError, match="does not have the weights"):
        use("0" * 64)
    use(known.tensors_sha256)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 7}, "shows it in its tensors: leave --num-heads out"),
        ({"tubelet_size": (2, 16, 16)}, "has no --tubelet; leave it out"),
        ({"model": "videoswin-t", "num_frames": 8}, "has num_frames 32, not 8; leave --num-frames"),
    ],
    ids=str,
)
def test_an_option_that_a_model_does_not_take_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    torch.save(torchvision_swin(num_classes=5).state_dict(), tmp_path / "swin.pth")
    with pytest.raises(UsageError, match=words):
        convert(tmp_path / "swin.pth", tmp_path / "o.safetensors", **options)


def test_frames_that_nothing_states_are_told(tmp_path: Path) -> None:
    torch.save(torchvision_swin(num_classes=5).state_dict(), tmp_path / "swin.pth")
    report = convert(tmp_path / "swin.pth", tmp_path / "o.safetensors")
    assert report.notes == [
        "clips have 32 frames, which nothing states; -m or --num-frames changes that"
    ]
    report = convert(tmp_path / "swin.pth", tmp_path / "o.safetensors", num_frames=16)
    assert report.notes == []
