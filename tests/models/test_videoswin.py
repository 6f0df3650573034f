"""Video Swin: logits equal upstream's, all layouts, and initialization from image Swin."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.goldens import (
    big_golden,
    build_model,
    golden_dir,
    golden_input,
    layout_of,
    load_manifest,
    require_any_prefix,
    synthetic_tensors,
)
from vtcli.errors import LayoutError, ShapeError
from vtcli.models.layouts import Mapped, from_vt, to_vt
from vtcli.models.videoswin import ARCHITECTURE, PRESETS, infer_config, published_macs
from vtcli.models.videoswin import model as network
from vtcli.models.videoswin.checkpoints import init_from_image_model
from vtcli.models.videoswin.configs import VideoSwinConfig
from vtcli.models.videoswin.windows import position_bias, relative_position

GOLDEN = golden_dir("videoswin")
TINY = sorted(p.stem for p in GOLDEN.glob("tiny_*.json"))
INFLATED = sorted(p.stem for p in GOLDEN.glob("inflate_*.json"))
FULL = [
    "full_swin_tiny_patch244_window877_kinetics400_1k_official",
    "full_swin_base_patch244_window1677_sthv2_official",
    "full_swin3d_t_torchvision",
]


def config_of(manifest: dict[str, Any]) -> VideoSwinConfig:
    """Our configuration for upstream's constructor arguments."""
    upstream = manifest["config"]
    return VideoSwinConfig(
        patch_size=tuple(upstream["patch_size"]),
        width=upstream["embed_dim"],
        depths=tuple(upstream["depths"]),
        num_heads=tuple(upstream["num_heads"]),
        window_size=tuple(upstream["window_size"]),
        mlp_ratio=upstream["mlp_ratio"],
        qkv_bias=upstream["qkv_bias"],
        patch_norm=upstream["patch_norm"],
        num_classes=manifest["num_classes"],
    )


build = partial(build_model, ARCHITECTURE)


def golden_model(path: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The model of one golden, its clip and upstream's logits."""
    manifest, upstream = load_manifest(path)
    vt = to_vt(ARCHITECTURE.layouts[manifest["layout"]], upstream).tensors
    clip = golden_input(manifest["input"]["shape"])
    logits = load_file(path.with_suffix(".safetensors"))["logits"]
    return build(config_of(manifest), vt), clip, logits


@torch.inference_mode()
def distance(path: Path) -> float:
    """Largest logit difference from upstream for one golden."""
    model, clip, expected = golden_model(path)
    return (model(clip) - expected).abs().max().item()


@pytest.mark.parametrize("name", TINY)
def test_logits_equal_upstream(name: str) -> None:
    assert distance(GOLDEN / f"{name}.json") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_logits_equal_upstream(name: str) -> None:
    assert distance(big_golden("videoswin", f"{name}.json")) < 1e-5


@pytest.mark.parametrize("case", ["shift", "clamp", "window16", "options"])
@pytest.mark.parametrize(
    "path", ["gradients", "split windows", "small chunks", "fused attention", "head by head"]
)
def test_every_code_path_gives_upstreams_logits(
    case: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPUs compute large clips in chunks, with AVX-512 also head by head; others use PyTorch's
    fused attention.
    """
    if path != "gradients":
        monkeypatch.setattr(network, "MIN_SPLIT", 0)
    if path == "small chunks":
        monkeypatch.setattr(network, "CPU_ELEMENTS", 1000)
        monkeypatch.setattr(network, "CPU_SCORES", 2 * 18 * 18)
    if path == "fused attention":
        monkeypatch.setattr(network, "_explicit", network._fused)
    if path == "head by head":
        monkeypatch.setattr(network, "MIN_WINDOW", 1)
        monkeypatch.setattr(network, "attends_by_onednn", lambda q: True)
    model, clip, expected = golden_model(GOLDEN / f"tiny_{case}_official.json")
    with torch.set_grad_enabled(path == "gradients"):
        assert (model(clip) - expected).abs().max() < 1e-5


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_logits() -> None:
    model, clip, expected = golden_model(GOLDEN / "tiny_shift_official.json")
    torch.compiler.reset()  # a second shape would be compiled as a dynamic one, which takes minutes
    with torch.inference_mode():
        logits = torch.compile(model, backend="eager", fullgraph=True)(clip)
        assert (logits - expected).abs().max() < 1e-5
        assert (model(clip) - expected).abs().max() < 1e-5


@pytest.mark.slow
def test_an_exported_model_gives_the_same_logits_and_does_not_change_the_model() -> None:
    model, clip, expected = golden_model(GOLDEN / "tiny_shift_official.json")
    with torch.no_grad():
        exported = torch.export.export(model, (clip,)).module()
        assert (exported(clip) - expected).abs().max() < 1e-5
        assert (model(clip) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", TINY)
def test_layouts_are_recognized_and_restored_bit_for_bit(name: str) -> None:
    manifest, upstream = load_manifest(GOLDEN / f"{name}.json")
    layout = layout_of(ARCHITECTURE, manifest, upstream)
    mapped = to_vt(layout, upstream)
    assert mapped.unexpected == []
    assert {n for n, _ in mapped.dropped} == set(manifest["unused_keys"])
    back = from_vt(layout, mapped.tensors, config_of(manifest))
    if manifest["layout"] == "mmaction2":  # exported with the name after four stages
        upstream = {
            re.sub(r"^backbone\.norm\d", "backbone.norm3", n): t for n, t in upstream.items()
        }
    assert back.keys() == upstream.keys()
    unused = set(manifest["unused_keys"])
    assert all(torch.equal(back[n], upstream[n]) for n in upstream if n not in unused)


def test_names_are_read_with_and_without_prefixes() -> None:
    _, upstream = load_manifest(GOLDEN / "tiny_shift_official.json")
    require_any_prefix(ARCHITECTURE.layouts["official"], upstream, usual="backbone.")


def test_torchvision_loads_an_exported_file() -> None:
    """Its strict loader expects the position index too."""
    swin = pytest.importorskip("torchvision.models.video.swin_transformer")
    config = VideoSwinConfig(
        width=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=(2, 3, 3), num_classes=7
    )
    vt = _fresh(config).eval()
    peer = swin.SwinTransformer3d([2, 4, 4], 8, [2] * 4, [1, 2, 4, 8], [2, 3, 3], num_classes=7)
    index = peer.state_dict()["features.0.0.attn.relative_position_index"].clone()
    written = from_vt(ARCHITECTURE.layouts["torchvision"], vt.state_dict(), config)
    peer.load_state_dict(written, strict=True)
    assert torch.equal(written["features.0.0.attn.relative_position_index"], index)
    clip = golden_input([1, 3, 5, 50, 41])
    with torch.inference_mode():
        assert (vt(clip) - peer.eval()(clip)).abs().max() < 1e-5


@pytest.mark.parametrize("model", PRESETS)
def test_every_published_configuration_is_inferred_from_shapes(model: str) -> None:
    config = PRESETS[model]
    assert infer_config(_shapes(config), {}) == config


def test_an_unpublished_window_size_must_be_given() -> None:
    config = replace(PRESETS["videoswin-t"], window_size=(4, 7, 7), qkv_bias=False)
    with pytest.raises(LayoutError, match="window_size"):
        infer_config(_shapes(config), {})
    assert infer_config(_shapes(config), {"window_size": [4, 7, 7]}) == config


def _shapes(config: VideoSwinConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {n: tuple(t.shape) for n, t in ARCHITECTURE.build(config).state_dict().items()}


@pytest.mark.parametrize(
    ("model", "num_classes", "count"),
    [
        ("videoswin-t", 400, 28_158_070),
        ("videoswin-s", 400, 49_816_678),
        ("videoswin-s", 710, 50_055_068),
        ("videoswin-b", 400, 88_048_984),
        ("videoswin-b", 600, 88_253_984),
        ("videoswin-b-w16", 174, 88_834_038),
        ("videoswin-l", 400, 196_953_916),
        ("videoswin-l", 700, 197_415_016),
        ("videoswin-l384", 400, 199_999_516),
        ("videoswin-l384", 600, 200_306_916),
    ],
)
def test_parameters_are_as_measured_upstream(model: str, num_classes: int, count: int) -> None:
    with torch.device("meta"):
        net = ARCHITECTURE.build(replace(PRESETS[model], num_classes=num_classes))
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(
    ("model", "giga_macs"),
    [
        ("videoswin-t", 87.76),
        ("videoswin-s", 165.68),
        ("videoswin-b", 281.33),
        ("videoswin-b-w16", 320.36),
        ("videoswin-l", 603.27),
        ("videoswin-l384", 2106.4),
    ],
)
def test_cost_is_as_measured_upstream(model: str, giga_macs: float) -> None:
    config = PRESETS[model]
    assert published_macs(config) / 1e9 == pytest.approx(giga_macs, rel=0.01)
    with torch.device("meta"):
        net = ARCHITECTURE.build(config).eval().requires_grad_(False)
        clip = torch.empty(1, 3, config.num_frames, config.image_size, config.image_size)
    with FlopCounterMode(display=False) as counter:
        net(clip)
    executed = published_macs(config) - _saved_in_time(config)
    assert counter.get_total_flops() / 2 == pytest.approx(executed, rel=1e-6)


def _saved_in_time(config: VideoSwinConfig) -> float:
    """Products for pairs of tokens that only a shift in time joins, so that they must be masked.

    They are half the pairs in the last windows in time of every second block.
    """
    frames = config.num_frames // config.patch_size[0]
    in_time, saved = -(-frames // config.window_size[0]), 0.0
    for stage, (C, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        side = config.image_size // config.patch_size[1] // 2**stage
        h, w = (min(side, step) for step in config.window_size[1:])
        joined = config.window_size[0] * -(-side // h) * h * -(-side // w) * w
        saved += depth // 2 * joined * C * config.window_size[0] * h * w
    return saved if in_time > 1 else 0.0


def _inflated(name: str, rename: bool) -> tuple[dict[str, Any], Mapped]:
    """The initial tensors of a golden's video model; with `rename`, from timm's names."""
    manifest, image = load_manifest(GOLDEN / f"{name}.json")
    if rename:
        image = {_timm_name(n): t for n, t in image.items() if "index" not in n and "mask" not in n}
    return manifest, init_from_image_model(image, config_of(manifest))


def _timm_name(name: str) -> str:
    name = re.sub(r"^head\.", "head.fc.", name)
    return re.sub(
        r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name
    )


@pytest.mark.parametrize("rename", [False, True], ids=["microsoft", "timm"])
@pytest.mark.parametrize("name", INFLATED)
def test_initialization_from_image_swin_equals_upstream(name: str, rename: bool) -> None:
    manifest, mapped = _inflated(name, rename)
    assert mapped.unexpected == []
    unused = set(manifest["unused_keys"])
    assert {n for n, _ in mapped.dropped} == (
        {"head.fc.weight", "head.fc.bias"} if rename else unused
    )
    head = to_vt(
        ARCHITECTURE.layouts["official"], synthetic_tensors(manifest["head_tensors"])
    ).tensors
    expected = load_file(GOLDEN / f"{name}.safetensors")
    for upstream, vt in (
        ("patch_embed.proj.weight", "patch_embed.proj.weight"),
        (
            "layers.0.blocks.0.attn.relative_position_bias_table",
            "stages.0.blocks.0.attn.bias_table",
        ),
        (
            "layers.3.blocks.1.attn.relative_position_bias_table",
            "stages.3.blocks.1.attn.bias_table",
        ),
    ):
        assert (mapped.tensors[vt] - expected[f"inflated.{upstream}"]).abs().max() < 1e-6
    model = build(config_of(manifest), {**mapped.tensors, **head})
    with torch.inference_mode():
        logits = model(golden_input(manifest["input"]["shape"]))
    assert (logits - expected["logits"]).abs().max() < 1e-5


def test_every_tensor_of_a_timm_swin_is_used() -> None:
    timm = pytest.importorskip("timm")
    image = timm.models.swin_transformer.SwinTransformer(
        img_size=96, embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=3
    )
    config = VideoSwinConfig(
        width=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=(8, 3, 3)
    )
    mapped = init_from_image_model(image.state_dict(), config)
    assert mapped.unexpected == []
    shapes = {n: tuple(t.shape) for n, t in mapped.tensors.items()}
    expected = _shapes(config)
    assert shapes == {n: s for n, s in expected.items() if not n.startswith("head.")}


def test_tensors_that_are_not_an_image_swin_are_refused() -> None:
    with pytest.raises(LayoutError, match="not an image Swin"):
        init_from_image_model({"fc.weight": torch.ones(2, 2)}, PRESETS["videoswin-t"])


def test_logits_do_not_depend_on_the_other_clips_of_the_batch() -> None:
    model, _, _ = golden_model(GOLDEN / "tiny_shift_official.json")
    clips = golden_input([3, 3, 7, 50, 46])
    with torch.inference_mode():
        together, alone = model(clips), torch.cat([model(clip[None]) for clip in clips])
    assert (together - alone).abs().max() < 1e-5


def test_training_works_after_inference() -> None:
    model, clip, _ = golden_model(GOLDEN / "tiny_shift_official.json")
    with torch.inference_mode():
        model(clip)
    model(clip).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_any_clip_size_is_accepted_and_other_shapes_are_refused() -> None:
    model = _fresh(_TINY).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 1, 5, 33)).shape == (2, 5)
    for shape in ((3, 4, 32, 32), (1, 1, 4, 32, 32), (1, 3, 0, 32, 32)):
        with pytest.raises(ShapeError, match=r"\[batch, 3, frames, height, width\]"):
            model(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(5, 50, 58), (4, 40, 24), (3, 8, 33)], ids=str)
def test_split_windows_give_the_logits_of_masked_ones(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPUs mask the windows that join both ends of the grid along height and width."""
    monkeypatch.setattr(network, "MIN_SPLIT", 0)
    model = _fresh(_TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    clip = torch.randn(2, 3, *shape)
    with torch.inference_mode():
        logits = model(clip)
        monkeypatch.setattr(network, "MIN_SPLIT", math.inf)
        expected = model(clip)
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_kept_position_biases_follow_their_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the table is changed: by `.data`, which no version counts, or by another type."""
    monkeypatch.setattr(network, "MIN_SPLIT", 0)
    model, clip = _fresh(_TINY).eval(), torch.randn(1, 3, 4, 24, 24)
    table = model.stages[0].blocks[1].attn.bias_table

    def logits(kept: bool) -> Tensor:
        for module in model.modules():
            if isinstance(module, network.WindowAttention) and not kept:
                module.kept = None
        with torch.inference_mode():
            return model(clip.to(table.dtype))

    before = logits(kept=False)
    assert torch.equal(logits(kept=True), before)
    table.data.copy_(torch.randn_like(table))
    changed = logits(kept=True)
    assert not torch.equal(changed, before)
    assert torch.equal(changed, logits(kept=False))
    model.bfloat16()
    assert torch.equal(logits(kept=True), logits(kept=False))


def test_large_position_biases_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MIN_SPLIT", 0)
    monkeypatch.setattr(network, "KEPT_BYTES", 0)
    model = _fresh(_TINY).eval()
    with torch.inference_mode():
        model(torch.randn(1, 3, 4, 24, 24))
    assert all(block.attn.kept is None for stage in model.stages for block in stage.blocks)


@pytest.mark.parametrize("size", [(8, 7, 5), (4, 7, 5), (1, 3, 2)], ids=str)
def test_position_bias_is_that_of_each_pair(size: tuple[int, ...]) -> None:
    full = (8, 7, 5)
    table = torch.randn(15 * 13 * 9, 3)
    part = tuple(range(along) for along in size)
    rows = relative_position(full, full, part, torch.device("cpu"))
    expected = table[rows].permute(2, 0, 1)
    found = position_bias(table, full, size, rows=len(rows) + 3)
    assert torch.equal(found[..., :-3], expected)
    assert (found[..., -3:] == -math.inf).all()


_TINY = VideoSwinConfig(
    width=16, depths=(2, 2), num_heads=(1, 2), window_size=(2, 3, 3), num_classes=5, drop_path=0.5
)


def _fresh(config: VideoSwinConfig) -> network.VideoSwin:
    with torch.device("meta"):
        model = network.VideoSwin(config)
    torch.manual_seed(0)
    model.to_empty(device="cpu").init_weights()
    return model


def test_a_fresh_model_has_upstreams_initial_values() -> None:
    state = _fresh(replace(PRESETS["videoswin-t"], depths=(1, 1, 1, 1))).state_dict()
    for name, tensor in state.items():
        if name.endswith("bias") and "proj" not in name:
            assert not tensor.any()
        elif "norm" in name and name.endswith("weight"):
            assert (tensor == 1).all()
    assert state["stages.3.blocks.0.mlp.fc1.weight"].std() == pytest.approx(0.02, rel=0.02)
    assert state["stages.3.blocks.0.attn.bias_table"].std() == pytest.approx(0.02, rel=0.02)
    assert state["head.weight"].std() == pytest.approx(0.01, rel=0.02)
    narrow = _fresh(PRESETS["videoswin-nano"]).state_dict()
    assert narrow["stages.0.blocks.0.mlp.fc1.weight"].std() == pytest.approx(0.08, rel=0.02)


def test_every_parameter_gets_gradients() -> None:
    model = _fresh(_TINY).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for seed in range(4):
        torch.manual_seed(seed)
        model(torch.randn(4, 3, 6, 32, 32)).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_stochastic_depth_drops_branches_per_clip() -> None:
    """Equal clips differ only in which of the last block's two branches are dropped."""
    model = _fresh(replace(_TINY, depths=(1, 1), dropout=0.0)).train()
    clips = torch.randn(1, 3, 6, 32, 32).expand(64, -1, -1, -1, -1)
    with torch.no_grad():
        outputs = model(clips).unique(dim=0)
    distances = (outputs[:, None] - outputs[None]).abs().amax(-1)
    assert len((distances < 1e-6).unique(dim=0)) == 4


def test_autocast_keeps_the_residual_stream_in_full_precision() -> None:
    block = network.Block(_TINY, stage=0, shifted=True, drop_path=0.0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x_BTHWC = torch.randn(1, 3, 5, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = block(x_BTHWC)
    assert mixed.dtype == torch.float32
    assert (mixed - block(x_BTHWC)).abs().max() < 0.02


def test_half_precision_logits_are_close() -> None:
    model, clip, expected = golden_model(GOLDEN / "tiny_shift_official.json")
    with torch.inference_mode():
        half = model.to(torch.bfloat16)(clip.bfloat16()).float()
    assert (half - expected).abs().max() < 0.05 * expected.abs().max()
