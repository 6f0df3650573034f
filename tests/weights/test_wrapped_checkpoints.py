"""Checkpoints as training loops write them: read right, or refused for the true reason.

The network is small; its values are random, so that only the right tensors give the right values.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vtcli.errors import InputError, LayoutError, UsageError, VtError
from vtcli.models import get_architecture, with_overrides
from vtcli.models.build import build_on_meta
from vtcli.models.layouts import from_vt
from vtcli.weights.card_check import MAX_TENSORS
from vtcli.weights.checkpoint import open_tensors, read_card
from vtcli.weights.convert import convert

SWIN = get_architecture("videoswin")
CONFIG = with_overrides(
    SWIN.presets["videoswin-t"],
    {"depths": (1, 1), "num_heads": (1, 2), "width": 16, "num_classes": 5},
)
SHAPES = {n: t.shape for n, t in build_on_meta(SWIN, CONFIG).state_dict().items()}
GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = {n: torch.randn(shape, generator=GENERATOR) for n, shape in SHAPES.items()}
FILE = from_vt(SWIN.layouts["mmaction2"], WEIGHTS, CONFIG)
ZEROS = {n: torch.zeros_like(t) for n, t in FILE.items()}


def under(prefix: str, tensors: dict[str, Tensor] = FILE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


class Config(dict[str, Any]):
    """A configuration that is a dictionary, as those of addict, EasyDict and mmengine."""


class Settings:
    def __init__(self) -> None:
        self.rate = 0.1


def flat_ema(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"ema_" + name.replace(".", "_"): tensor for name, tensor in tensors.items()}


GOOD: dict[str, Any] = {
    "flat": FILE,
    "compiled": {"state_dict": under("_orig_mod.")},
    "compiled, then parallel": {"state_dict": under("module._orig_mod.")},
    "parallel, then compiled": {"state_dict": under("_orig_mod.module.")},
    "wrapped three times": {"model": under("model.module._orig_mod.net.")},
    "a layer compiled": {n.replace("backbone.", "backbone._orig_mod."): t for n, t in FILE.items()},
    "a prefix nobody knows": {"state_dict": under("encoder_of_mine.")},
    "model_state_dict": {
        "epoch": 3,
        "model_state_dict": FILE,
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
    },
    "a key nobody knows": {"my_weights": FILE, "accuracy": 90.1},
    "nested keys": {"trainer": {"best": {"network": FILE}}},
    "only ema": {"epoch": 1, "ema": FILE},
    "ema in a record": {"ema": {"decay": 0.99, "shadow": FILE}},
    "lightning": {
        "state_dict": under("model."),
        "hyper_parameters": {"lr": 1e-3, "out": pathlib.PurePosixPath("/x")},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    },
    "deepspeed": {"module": FILE, "ds_config": {"a": 1}},
    "double": {n: t.double() if t.is_floating_point() else t for n, t in FILE.items()},
    "paths": {"state_dict": FILE, "args": argparse.Namespace(out=pathlib.Path("/x"), lr=1)},
    "defaultdict": {"state_dict": FILE, "log": collections.defaultdict(list, {"a": [1]})},
    "deque": {"state_dict": FILE, "log": collections.deque([1, 2], maxlen=3)},
    "date": {"state_dict": FILE, "at": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)},
    "class of dictionary": {"state_dict": FILE, "cfg": Config(a=Config(b=1))},
    "own class": {"state_dict": FILE, "settings": Settings()},
    "random states": {
        "state_dict": FILE,
        "rng": torch.get_rng_state(),
        "np": np.float64(3.0),
        "np_rng": np.random.RandomState(0).get_state(),
        "set": {1, 2},
    },
    "integer keys": {"state_dict": FILE, "best": {1: 2}},
    "parameters": {n: nn.Parameter(t, t.is_floating_point()) for n, t in FILE.items()},
    "not contiguous": {n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in FILE.items()},
    "averaged model": {"state_dict": {**under("module."), "n_averaged": torch.tensor(5)}},
    "names and tensors": list(FILE.items()),
    "the same twice": {"model": FILE, "net": FILE},
    "after a long log": {"log": {str(i): {"loss": i} for i in range(30_000)}, "state_dict": FILE},
    "three keys around": {"ema": {"model": {"state_dict": FILE}}},
}  # fmt: skip


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def values(path: Path, out: Path, **options: Any) -> dict[str, Tensor]:
    convert(path, out, verify=True, **options)
    return open_tensors(out)


@pytest.mark.parametrize("case", GOOD)
def test_the_weights_of_a_training_loops_file_are_found(case: str, tmp_path: Path) -> None:
    got = values(saved(tmp_path / "a.pth", GOOD[case]), tmp_path / "o.safetensors")
    assert got.keys() == WEIGHTS.keys()
    assert all(torch.equal(got[name].to(t.dtype), t) for name, t in WEIGHTS.items())


def test_a_file_of_the_legacy_format_is_read(tmp_path: Path) -> None:
    content = {"state_dict": FILE, "args": argparse.Namespace(out=pathlib.PurePosixPath("/x"))}
    src = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=False)
    got = values(src, tmp_path / "o.safetensors")
    assert all(torch.equal(got[name], t) for name, t in WEIGHTS.items())


TWO_COPIES: dict[str, Any] = {
    "state_dict_ema": {"state_dict": ZEROS, "state_dict_ema": FILE},
    "model_ema": {"model": ZEROS, "model_ema": under("module.")},
    "flattened names": {"state_dict": {**ZEROS, **flat_ema(FILE)}},
    "a prefix": {"state_dict": {**under("model.", ZEROS), **under("model_ema.")}},
    "names without dots": {
        "state_dict": {
            **under("model.", ZEROS),
            **{"model_ema." + name.replace(".", ""): tensor for name, tensor in FILE.items()},
            "model_ema.num_updates": torch.tensor(3),
        }
    },
}


@pytest.mark.parametrize("case", TWO_COPIES)
def test_the_choice_between_raw_and_ema_weights_is_stated_and_can_be_made(
    case: str, tmp_path: Path
) -> None:
    src, out = saved(tmp_path / "a.pth", TWO_COPIES[case]), tmp_path / "o.safetensors"
    report = convert(src, out)
    assert "raw weights and EMA weights" in report.notes[0]
    assert "--ema" in report.notes[0]
    assert not open_tensors(out)["head.weight"].any()
    report = convert(src, out, ema=True)
    assert "the EMA weights" in report.notes[0]
    got = open_tensors(out)
    assert all(torch.equal(got[name], t) for name, t in WEIGHTS.items())


def test_ema_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no EMA weights"):
        convert(saved(tmp_path / "a.pth", FILE), tmp_path / "o.safetensors", ema=True)


class Net(nn.Module):
    pass


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 458000000\n"
OPTIMIZER = {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}}
TWO_MODELS = {"student": FILE, "teacher": {n: t + 1 for n, t in FILE.items()}}
BAD: dict[str, tuple[Any, str]] = {
    "lfs": (LFS, "a Git LFS pointer, not the weights; run `git lfs pull`"),
    "html": (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
    "json": (b'{"error": "not found"}' + b" " * 40, "a JSON text"),
    "gzip": (b"\x1f\x8b\x08" + b"0" * 40, "a gzip archive"),
    "optimizer": (OPTIMIZER, "an optimizer's state but no weights"),
    "list": ({"state_dict": list(FILE.values())}, "tensors without names"),
    "two models": (TWO_MODELS, "several models that fit, under 'student', 'teacher'"),
    "more than the model": ({**FILE, "loss_fn.weight": torch.ones(8)}, "'loss_fn.weight'"),
    "more beside the prefix": (
        {"state_dict": {**under("model."), "criterion.weight": torch.ones(8)}},
        "'criterion.weight'",
    ),
    "no head": ({n: t for n, t in FILE.items() if "fc_cls" not in n}, "'head.weight' is missing"),
    "nan": ({n: t * float("nan") if "fc_cls" in n else t for n, t in FILE.items()}, "NaN"),
    "whole model": (nn.Linear(2, 2), "a whole model"),
    "nothing": ({"epoch": 3}, "holds no tensors"),
    "student and teacher": (
        {"state_dict": {**under("student."), **under("teacher.", ZEROS)}},
        "several models that fit, under 'state_dict.student', 'state_dict.teacher'",
    ),
    "sparse": ({n: t.to_sparse() for n, t in FILE.items()}, "is sparse; save its values as"),
    "complex": ({n: t.to(torch.complex64) for n, t in FILE.items()}, "is complex64"),
    "eight bits": ({n: t.to(torch.float8_e4m3fn) for n, t in FILE.items()}, "is float8_e4m3fn"),
    "no values": ({n: t.to("meta") for n, t in FILE.items()}, "is without values"),
    "whole numbers": ({n: t.int() for n, t in FILE.items()}, "is of the type int32"),
    "repeated values": (
        {n: torch.zeros(1).expand(10**9, 16) if "fc_cls" in n else t for n, t in FILE.items()},
        "would expand to",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_has_no_weights_is_refused_for_the_true_reason(
    case: str, tmp_path: Path
) -> None:
    content, words = BAD[case]
    src = tmp_path / "a.pth"
    if isinstance(content, bytes):
        src.write_bytes(content)
    else:
        saved(src, content)
    with pytest.raises(VtError) as caught:
        convert(src, tmp_path / "out" / "o.safetensors")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


class Hostile:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _hostile() -> dict[str, Any]:
    import os
    import runpy
    import shutil
    import subprocess
    import webbrowser

    return {
        "os.system": Hostile(os.system, "touch was_run"),
        "subprocess.Popen": Hostile(subprocess.Popen, ["touch", "was_run"]),
        "eval": Hostile(eval, "open('was_run', 'w')"),
        "open": Hostile(open, "was_run", "w"),
        "getattr": Hostile(getattr, "a", "upper"),
        "rmtree": Hostile(shutil.rmtree, "."),
        "runpy": Hostile(runpy.run_path, "x.py"),
        "webbrowser": Hostile(webbrowser.open, "http://x"),
        "torch.hub.load": Hostile(torch.hub.load, "a/b", "c"),
    }


@pytest.mark.parametrize("case", _hostile())
def test_nothing_in_a_file_is_run(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = saved(tmp_path / "a.pth", {"state_dict": FILE, "x": _hostile()[case]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VtError, match="would run"):
        convert(src, tmp_path / "o.safetensors")
    assert not (tmp_path / "was_run").exists()


def test_a_record_is_never_constructed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = saved(tmp_path / "a.pth", {"state_dict": FILE, "settings": Settings(), "c": Config(a=1)})

    def fail(*_: Any) -> None:
        raise AssertionError("a class of the file was used")

    monkeypatch.setattr(Settings, "__new__", fail)
    monkeypatch.setattr(Config, "__new__", fail)
    convert(src, tmp_path / "o.safetensors")


def sharded(folder: Path) -> Path:
    folder.mkdir()
    names = list(FILE)
    files = {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(files.values()):
        save_file({n: FILE[n].contiguous() for n in names if files[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def test_a_sharded_checkpoint_is_read_by_its_folder_or_index(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "shards")
    for src in (folder, folder / "model.safetensors.index.json"):
        got = values(src, tmp_path / "o.safetensors")
        assert all(torch.equal(got[name], t) for name, t in WEIGHTS.items())


def test_a_shard_alone_is_refused_as_one(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "shards")
    shard = folder / "model-00001-of-00002.safetensors"
    with pytest.raises(
        InputError, match=r"part 1 of 2 of a sharded checkpoint; name .*index\.json"
    ):
        convert(shard, tmp_path / "o.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="its index"):
        convert(shard, tmp_path / "o.safetensors")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", ".hidden"])
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(VtError, match="not the name of a file in the same folder"):
        convert(index, tmp_path / "o.safetensors")


ENTRY = """
[[checkpoint]]
id = "videoswin-t.mini-8f"
arch = "videoswin"
model = "videoswin-t"
dataset = "mini"
num_classes = 7
frames = 8
resolution = 224
views = "4x3"
top1 = 50.0
pipeline = "videoswin-kinetics"
config = { depths = [1, 1], num_heads = [1, 2], width = 16 }
"""


@pytest.fixture
def _entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mini.toml").write_text(ENTRY)
    monkeypatch.setenv("VT_REGISTRY", str(tmp_path / "mini.toml"))


@pytest.mark.usefixtures("_entry")
def test_a_head_trained_elsewhere_takes_its_classes_from_the_labels_file(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    src, out = saved(tmp_path / "mine.pth", {"model": under("module.")}), tmp_path / "o.safetensors"
    got = values(src, out, model="videoswin-t.mini-8f", labels=labels)
    assert torch.equal(got["head.weight"], WEIGHTS["head.weight"])
    card = read_card(out)
    assert card.labels == ("a", "b", "c", "d", "e")
    assert (card.config["num_frames"], card.config["num_classes"], card.views) == (8, 5, "4x3")
    assert (card.id, card.dataset, card.top1) == ("", "", None)


@pytest.mark.usefixtures("_entry")
def test_the_error_for_other_classes_asks_for_their_names(tmp_path: Path) -> None:
    src = saved(tmp_path / "mine.pth", FILE)
    with pytest.raises(LayoutError, match=r"its num_classes is 5, not 7; give .* --labels FILE"):
        convert(src, tmp_path / "o.safetensors", model="videoswin-t.mini-8f")


def test_an_unknown_model_is_reported_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown model 'nothing'"):
        convert(tmp_path / "absent.pth", tmp_path / "o.safetensors", model="nothing")


def test_a_npz_bomb_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(40_000_000, np.float32))
    with pytest.raises(VtError, match="would unpack to"):
        convert(tmp_path / "a.npz", tmp_path / "o.safetensors")


def test_a_zip_archive_around_a_checkpoint_is_named_as_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.write(saved(tmp_path / "weights.pth", FILE), "weights.pth")
    with pytest.raises(VtError, match=r"a zip archive .* \(it holds weights.pth\); unpack it"):
        convert(tmp_path / "a.pth", tmp_path / "o.safetensors")


def test_a_compressed_pickle_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02]" + b"K\x01a" * 30_000_000 + b".")
    with pytest.raises(VtError, match="would unpack to"):
        convert(tmp_path / "a.pth", tmp_path / "o.safetensors")


def test_a_file_with_more_tensors_than_any_model_is_refused(tmp_path: Path) -> None:
    save_file({str(i): torch.zeros(0) for i in range(MAX_TENSORS + 1)}, tmp_path / "a.safetensors")
    with pytest.raises(VtError, match="which no model has"):
        convert(tmp_path / "a.safetensors", tmp_path / "o.safetensors")


@pytest.mark.parametrize("label", ["\x1b[2J", "\u202e", "x" * 30_000])
def test_labels_that_no_command_would_read_are_refused(tmp_path: Path, label: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(f"{label}\nb\nc\nd\ne\n")
    with pytest.raises(VtError, match="its 'labels' has"):
        convert(saved(tmp_path / "a.pth", FILE), tmp_path / "o.safetensors", labels=labels)
    assert not (tmp_path / "o.safetensors").exists()
