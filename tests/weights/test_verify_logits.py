"""`--verify-logits` compares with the library that a file is from, and finds what shapes hide."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import tiny
from tests.weights.hf_models import LABELS, make_model, make_processor, torchvision_swin
from vtcli.errors import LayoutError, UsageError
from vtcli.models import get_architecture
from vtcli.models.layouts import to_vt
from vtcli.weights.class_order import CheckpointOrigin
from vtcli.weights.convert import ConversionReport, convert
from vtcli.weights.converted_card import Converted
from vtcli.weights.formats.transformers_repo import Stated


def compared(src: Path, **given: Any) -> ConversionReport:
    return convert(src, src.parent / "ours.vt.safetensors", verify_logits=True, **given)


@pytest.mark.parametrize(
    "config",
    [{}, {"num_attention_heads": 6, "num_frames": 10}, {"num_channels": 1}],
    ids=str,
)
def test_a_vivit_has_the_logits_of_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    make_model(tmp_path / "model", **config)
    make_processor(tmp_path / "model")
    report = compared(tmp_path / "model")
    assert report.logits_library.startswith("transformers ")
    assert report.logits_difference is not None
    assert report.logits_difference < 1e-4


def test_a_file_whose_heads_are_given_wrongly_is_refused(tmp_path: Path) -> None:
    """The tensors alone fit 3 and 6 heads; config.json of the library decides."""
    import vtcli.weights.verify_logits as module

    make_model(tmp_path / "model", num_attention_heads=6)
    alone = tmp_path / "alone.safetensors"
    save_file(load_file(tmp_path / "model/model.safetensors"), alone)
    given = {"num_frames": 8, "image_size": 32}
    right = compared(alone, num_heads=6, **given)
    assert right.logits_difference is not None
    assert right.logits_library.endswith("which no config.json states")
    done, upstream = _converted(alone, 3)
    with pytest.raises(LayoutError, match=r"differ from those of transformers .*--num-heads"):
        module.logits_difference(done, upstream, LABELS)


def _converted(file: Path, heads: int) -> tuple[Converted, dict[str, Tensor]]:
    """A file converted with a number of heads, where the library states 6, and its tensors."""
    architecture = get_architecture("vivit")
    layout, tensors = architecture.layouts["hf"], load_file(file)
    mapped = to_vt(layout, dict(tensors))
    shapes = {name: tuple(tensor.shape) for name, tensor in mapped.tensors.items()}
    hints = {"num_heads": heads, "num_frames": 8, "image_size": 32}
    config = architecture.infer_config(shapes, hints)
    stated = Stated("place", library_config={"num_attention_heads": 6})
    origin = CheckpointOrigin(None, None, "", stated)
    done = Converted(file, origin, architecture, config, layout, "", mapped.tensors)
    return done, {layout.full_name(name): tensors[name] for name, _ in mapped.renamed}


def test_a_video_swin_has_the_logits_of_torchvision(tmp_path: Path) -> None:
    path = tmp_path / "swin.pth"
    torch.save(torchvision_swin(num_classes=5).state_dict(), path)
    report = compared(path, num_frames=8, image_size=64)
    assert report.logits_library.startswith("torchvision ")
    assert report.logits_difference is not None
    assert report.logits_difference < 1e-4


def test_a_format_without_an_importable_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="official layout: it would need the authors' own code"):
        compared(tiny.official_file(tmp_path / "tiny.pyth"))


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "model")
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'vtcli\[verify\]'"):
        compared(tmp_path / "model")


def test_a_network_without_a_classifier_has_no_logits(tmp_path: Path) -> None:
    make_model(tmp_path / "model", headless=True)
    with pytest.raises(UsageError, match="needs a classifier"):
        compared(tmp_path / "model")
