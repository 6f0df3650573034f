"""ViViT: logits equal upstream's in all four models and both layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from tests.goldens import big_golden, layout_of, load_manifest
from tests.models.vivit_goldens import (
    GOLDEN,
    ROOT,
    TINY,
    build,
    clip_of,
    config_of,
    golden_model,
    mapped,
    old_numbered,
    together,
)
from vtcli.errors import LayoutError, ShapeError, UsageError
from vtcli.models import with_overrides
from vtcli.models.layouts import from_vt, to_vt
from vtcli.models.vivit import ARCHITECTURE, PRESETS, infer_config
from vtcli.models.vivit.configs import ViViTConfig, published_macs
from vtcli.models.vivit.model import ViViT, sampled_indices

FULL = ["full_scenic_m1_b16x2_k400", "full_hf_b16x2_k400"]


@torch.inference_mode()
def distance(path: Path) -> float:
    """Largest logit difference from upstream for one golden."""
    manifest, upstream = load_manifest(path)
    vt = to_vt(ARCHITECTURE.layouts[manifest["layout"]], upstream).tensors
    logits = together(build(config_of(manifest), vt)(clip_of(manifest)))
    return (logits - load_file(path.with_suffix(".safetensors"))["logits"]).abs().max().item()


@pytest.mark.parametrize("name", TINY)
def test_logits_equal_upstream(name: str) -> None:
    assert distance(GOLDEN / f"{name}.json") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_logits_equal_upstream(name: str) -> None:
    assert distance(big_golden("vivit", f"{name}.json")) < 1e-5


@pytest.mark.parametrize("name", TINY)
def test_layouts_are_recognized_and_restored_bit_for_bit(name: str) -> None:
    manifest, upstream = load_manifest(GOLDEN / f"{name}.json")
    layout = layout_of(ARCHITECTURE, manifest, upstream)
    result = to_vt(layout, upstream)
    assert result.unexpected == []
    assert result.dropped == []
    back = from_vt(layout, result.tensors, config_of(manifest))
    usual = {layout.full_name(name): tensor for name, tensor in upstream.items()}
    assert back.keys() == usual.keys()
    assert all(torch.equal(back[name], usual[name]) for name in usual)


def test_old_and_new_transformers_names_are_one_layout() -> None:
    old, new = (
        set(load_manifest(GOLDEN / f"{n}.json")[1]) for n in ("tiny_hf_cls", "tiny_hf5_cls")
    )
    layout = ARCHITECTURE.layouts["hf"]
    assert old != new
    assert {layout.full_name(name) for name in new} == old
    bare = {name.removeprefix("vivit."): torch.zeros(0) for name in old}
    assert {layout.full_name(name) for name in bare} == old


def test_a_pooler_is_reported_as_unused() -> None:
    _, upstream = load_manifest(GOLDEN / "tiny_hf_cls.json")
    result = to_vt(
        ARCHITECTURE.layouts["hf"], {**upstream, "vivit.pooler.dense.bias": torch.ones(2)}
    )
    assert [name for name, _ in result.dropped] == ["vivit.pooler.dense.bias"]


@pytest.mark.parametrize(
    "root", ["", "params/", "opt/target/", "optimizer/target/", "optimizer/target/params/"]
)
@pytest.mark.parametrize("old", [False, True])
def test_flax_names_are_read_with_every_root_and_numbering(root: str, old: bool) -> None:
    _, upstream = load_manifest(GOLDEN / "tiny_scenic_m1_token.json")
    layout = ARCHITECTURE.layouts["scenic"]
    plain = to_vt(layout, upstream).tensors
    names = {root + n.removeprefix(ROOT): t for n, t in upstream.items()}
    renamed = {old_numbered(n) if old else n: t for n, t in names.items()}
    assert layout.recognizes(renamed)
    result = to_vt(layout, renamed)
    assert result.unexpected == []
    assert result.tensors.keys() == plain.keys()
    assert all(torch.equal(result.tensors[n], plain[n]) for n in plain)


@pytest.mark.parametrize(
    "name", ["tiny_scenic_m2_token", "tiny_scenic_m4", "tiny_scenic_m1_gap_ufs"]
)
def test_models_that_transformers_does_not_support_are_not_exported_for_it(name: str) -> None:
    manifest, found = mapped(name)
    with pytest.raises(LayoutError):
        from_vt(ARCHITECTURE.layouts["hf"], found.tensors, config_of(manifest))


@pytest.mark.parametrize("name", TINY)
def test_the_configuration_is_inferred_from_a_file(name: str) -> None:
    manifest, found = mapped(name)
    config = config_of(manifest)
    not_in_shapes = ["num_frames", "image_size", "attention_order", "heads"]
    not_in_shapes += ["num_heads"] if manifest["layout"] == "hf" else []
    not_in_shapes += ["attention", "sampled_frames"] if config.sampled_frames else []
    hints = {field: getattr(config, field) for field in not_in_shapes}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}
    inferred = infer_config(shapes, {**found.hints, **hints})
    # Frames that do not fill a tubelet do not affect the shapes.
    assert replace(inferred, num_frames=config.num_frames) == config


@pytest.mark.parametrize("model", [name for name in PRESETS if not name.endswith("-nano")])
def test_every_published_configuration_is_inferred_from_shapes(model: str) -> None:
    config = PRESETS[model]
    assert infer_config(shapes_of(config), {}) == config
    if config.temporal_depth and config.attention == "factorized_encoder":
        shallow = replace(config, temporal_depth=3, num_classes=174)
        assert infer_config(shapes_of(shallow), {}) == shallow


def shapes_of(config: ViViTConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {n: tuple(t.shape) for n, t in ARCHITECTURE.build(config).state_dict().items()}


def test_other_clip_sizes_are_inferred_with_a_hint() -> None:
    larger = replace(PRESETS["vivit-l"], image_size=320)
    assert infer_config(shapes_of(larger), {}) == larger
    longer = replace(PRESETS["vivit-l-fe"], num_frames=128)
    assert infer_config(shapes_of(longer), {}) == longer
    joint = replace(PRESETS["vivit-b"], num_frames=128)
    assert infer_config(shapes_of(joint), {"num_frames": 128}) == joint
    with pytest.raises(LayoutError, match="give num_frames and image_size"):
        infer_config(shapes_of(replace(PRESETS["vivit-b"], num_frames=12)), {})


def test_tensors_that_are_not_a_vivit_are_refused() -> None:
    with pytest.raises(LayoutError, match="not a complete ViViT"):
        infer_config({"head.weight": (10, 10)}, {})


def test_released_files_have_upstreams_names_and_shapes() -> None:
    """The EPIC-Kitchens file: 4 temporal layers, 397 classes; shapes as its code makes them."""
    config = replace(PRESETS["vivit-l-fe"], temporal_depth=4, num_classes=397)
    with torch.device("meta"):
        vt = ARCHITECTURE.build(config).state_dict()
    upstream = from_vt(ARCHITECTURE.layouts["scenic"], vt, config)
    assert len(upstream) == 28 * 16 + 12
    attention = "encoderblock_23/MultiHeadDotProductAttention_0"
    expected = {
        "embedding/kernel": (2, 16, 16, 3, 1024),
        "cls_SpatialTransformer": (1, 1, 1024),
        "SpatialTransformer/posembed_input/pos_embedding": (1, 197, 1024),
        f"SpatialTransformer/{attention}/query/kernel": (1024, 16, 64),
        f"SpatialTransformer/{attention}/value/bias": (16, 64),
        f"SpatialTransformer/{attention}/out/kernel": (16, 64, 1024),
        "SpatialTransformer/encoderblock_0/MlpBlock_0/Dense_0/kernel": (1024, 4096),
        "TemporalTransformer/posembed_input/pos_embedding": (1, 17, 1024),
        "TemporalTransformer/encoderblock_3/LayerNorm_1/scale": (1024,),
        "output_projection/kernel": (1024, 397),
    }
    assert {name: tuple(upstream[ROOT + name].shape) for name in expected} == expected


# Million parameters and giga multiply-accumulates as measured upstream.
COSTS = [
    ("vivit-b", {}, 88.954, 451.5),
    ("vivit-b-fe", {}, 115.063, 283.3),
    ("vivit-b-fsa", {}, 117.319, 371.1),
    ("vivit-b-fdp", {}, 88.952, 276.2),
    ("vivit-b-fe-avg", {}, 86.696, 282.9),
    ("vivit-b-ufs8", {}, 87.160, 179.6),
    ("vivit-l", {}, 307.509, 1436.0),
    ("vivit-l", {"image_size": 288}, 309.606, 2895.4),
    ("vivit-l", {"image_size": 320}, 310.851, 3957.0),
    ("vivit-l-fe", {}, 606.828, 992.5),
    ("vivit-l-fe", {"num_classes": 600}, 607.033, 992.5),
    ("vivit-l-fe", {"temporal_depth": 4}, 354.903, 988.2),
    ("vivit-l-fe", {"temporal_depth": 4, "num_classes": 397}, 354.900, 988.2),
    ("vivit-l-fe", {"temporal_depth": 4, "num_classes": 174, "image_size": 256}, 354.733, 1301.0),
    ("vivit-l-fe", {"num_frames": 128}, 606.877, 3969.1),
    ("vivit-l-fsa", {}, 408.317, 1300.3),
    ("vivit-l-fdp", {}, 307.507, 968.3),
    ("vivit-h", {}, 636.945, 3958.8),
    ("vivit-h16", {}, 636.177, 2786.0),
    ("vivit-h-fe", {}, 710.765, 2681.1),
    ("vivit-h16-fe", {}, 711.149, 2041.4),
]


@pytest.mark.parametrize(("model", "changes", "millions", "giga_macs"), COSTS)
def test_size_and_cost_are_as_measured_upstream(
    model: str, changes: dict[str, Any], millions: float, giga_macs: float
) -> None:
    config = replace(PRESETS[model], **changes)
    with torch.device("meta"):
        net = ARCHITECTURE.build(config)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 3) == millions
    assert published_macs(config) / 1e9 == pytest.approx(giga_macs, abs=0.05)


def saved(steps: int, tokens: int) -> int:
    """MACs saved in a last block of width 768 of which only the class token is used.

    What remains are the token's projections and MLP, and its scores and sums over all tokens.
    """
    C, H = 768, 12
    full = tokens * 12 * C * C + 2 * tokens**2 * C
    return steps * (full - 12 * C * C - 2 * H * tokens * C)


@pytest.mark.parametrize(
    ("model", "savings"),
    [
        ("vivit-b", saved(1, 3137)),
        ("vivit-b-fe", saved(16, 197) + saved(1, 17)),
        ("vivit-b-fe-avg", saved(16, 197)),
        ("vivit-b-fsa", 0),
        ("vivit-b-fdp", 0),
    ],
)
def test_no_more_is_executed_than_needed(model: str, savings: int) -> None:
    with torch.device("meta"):
        net = ARCHITECTURE.build(PRESETS[model]).eval()
        clip = torch.empty(1, 3, 32, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(clip)
    executed = counter.get_total_flops() / 2
    assert executed == pytest.approx(published_macs(PRESETS[model]) - savings, rel=1e-4)


def test_frames_are_sampled_as_upstream_samples_them() -> None:
    golden = json.loads((GOLDEN / "sampling_uniform_scenic.json").read_text())
    for key, indices in golden["table"].items():
        frames, count = map(int, key.split(","))
        # If upstream's rounding gives one frame too many, the others are as expected.
        expected = indices[:count] if key in golden["count_mismatch"] else indices
        assert sampled_indices(frames, count) == expected, key


@pytest.mark.parametrize("name", ["tiny_scenic_m1_token", "tiny_scenic_m2_token", "tiny_scenic_m4"])
def test_logits_do_not_depend_on_the_other_clips_of_the_batch(name: str) -> None:
    model, clips = golden_model(name)
    with torch.inference_mode():
        batched, alone = model(clips), torch.cat([model(clip[None]) for clip in clips])
    assert (batched - alone).abs().max() < 1e-5


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith("tiny_scenic")])
def test_half_precision_logits_are_close(name: str) -> None:
    model, clip = golden_model(name)
    with torch.inference_mode():
        exact = together(model(clip))
        half = together(model.to(torch.bfloat16)(clip.bfloat16())).float()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


def test_two_heads_are_named_and_share_one_classifier() -> None:
    model, clip = golden_model("tiny_scenic_m2_epic")
    with torch.inference_mode():
        logits = model(clip)
    assert {name: tuple(part.shape) for name, part in logits.items()} == {
        "noun": (2, 12),
        "verb": (2, 7),
    }
    config = with_overrides(PRESETS["vivit-b"], {"heads": [["noun", 300], ["verb", 100]]})
    assert config.heads == (("noun", 300), ("verb", 100))
    with pytest.raises(UsageError, match="do not add up to 400"):
        replace(config, heads=(("noun", 300), ("verb", 97)))


def test_the_error_for_a_wrong_clip_size_names_the_right_one() -> None:
    model, clip = golden_model("tiny_hf_cls")
    for wrong in (clip[:, :, :, :12], clip[:, :, :4], torch.cat([clip, clip], dim=2)):
        with pytest.raises(ShapeError, match="clips of 6 frames of 16x16, not"):
            model(wrong)
    sampling, clip = golden_model("tiny_scenic_m1_gap_ufs")
    with pytest.raises(ShapeError, match="3 or more frames of 12x16, not 2"):
        sampling(clip[:, :, :2])
    with torch.inference_mode():
        assert sampling(clip[:, :, :5]).shape == (2, 11)


def test_features_are_what_the_classifier_reads() -> None:
    model, clip = golden_model("tiny_scenic_m1_gap_ufs")
    assert isinstance(model, ViViT)
    with torch.inference_mode():
        features = model.features(clip)
        assert features.shape == (2, 24)
        assert torch.equal(model.head(features), model(clip))
