"""A mistyped command, device or model gets one sentence that names what was probably meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vtcli.cli import run
from vtcli.cli.suggestions import RECIPES
from vtcli.errors import EXIT_OK, EXIT_USAGE, UnknownModelError, UsageError
from vtcli.runtime.device import resolve_device
from vtcli.training.recipes import list_recipes
from vtcli.weights.registry import load_registry


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("train", "did you mean `vt finetune`?"),
        ("Evaluate", "did you mean `vt eval`?"),
        ("list", "did you mean `vt models list`?"),
        ("finetun", "did you mean `vt finetune`?"),
        ("clip.mp4", "did you mean `vt predict clip.mp4`?"),
        ("https://example.org/a", "did you mean `vt predict https://example.org/a`?"),
        ("xyzzy", "see `vt --help`"),
    ],
)
def test_a_mistyped_command(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([word, "--dataset", "x"]) == EXIT_USAGE
    assert capsys.readouterr().err == f"vt: error: there is no command '{word}'; {meant}\n"


def test_a_folder_was_meant_as_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(tmp_path)]) == EXIT_USAGE
    assert f"did you mean `vt predict {tmp_path}`?" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "tpu", "cuda:99"])
def test_a_device_that_is_not_here(device: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{device}' on this machine") as caught:
        resolve_device(device)
    assert str(caught.value).endswith("cpu or auto")
    assert "privateuseone" not in str(caught.value)
    if not torch.cuda.is_available():
        assert ("GPU" in str(caught.value) or "CPUs" in str(caught.value)) == (device != "tpu")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("uniformerv2_b", "did you mean uniformerv2-b?"),
        ("ViViT-B", "did you mean vivit-b?"),
        ("timesformer-b", "vt has Video Swin, ViViT, X-ViT and UniFormerV2"),
        ("slowfast_r50", "vt has Video Swin, ViViT, X-ViT and UniFormerV2"),
    ],
)
def test_a_mistyped_model(name: str, hint: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        load_registry().find(name)
    assert f"unknown model '{name}'; {hint}" in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("vt predict -m vivit-b", ["vivit-b", "vivit-b-fe"]),
        ("vt eval --dataset ss", ["ssv1", "ssv2"]),
        ("vt models show xvit-n", ["xvit-nano"]),
        ("vt models list --dataset ss", ["ssv1", "ssv2"]),
        ("vt profile xvit-n", ["xvit-nano"]),
        ("vt datasets check ucf", ["ucf101"]),
        ("vt convert x.safetensors --to open", ["openvino"]),
        ("vt finetune --recipe nan", ["nano"]),
        ("vt predict --pipeline vivit-k", ["vivit-kinetics"]),
        ("vt eval --annotations fift", ["fiftyone"]),
    ],
)
def test_a_shell_completes_names(typed: str, expected: list[str]) -> None:
    asked = {"_VT_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    words = {**os.environ, **asked, "COMP_CWORD": str(len(typed.split()) - 1)}
    shown = subprocess.run(
        [sys.executable, "-m", "vtcli"], env=words, capture_output=True, text=True, timeout=60
    )
    assert shown.stdout.split()[: len(expected)] == expected


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-V"]) == run(["--version"]) == EXIT_OK
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_the_name_of_a_model_is_no_file_to_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["convert", "vivit-nano", "-o", "x.safetensors"]) == EXIT_USAGE
    assert "vivit-nano is a model, not a file" in capsys.readouterr().err


def test_the_recipes_that_a_shell_completes_are_all() -> None:
    assert set(RECIPES) == {"paper", "small", "scratch", *list_recipes()}
