"""The compiled attention kernel: softmax(q·kᵀ/√D + bias + mask)·v by both units for products."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vtcli
from tools.build_hook import SOURCE, why_not
from vtcli.models import layers, native_attention
from vtcli.models.videoswin import model as videoswin
from vtcli.models.videoswin.configs import VideoSwinConfig
from vtcli.runtime.device import cpu_features

ROOT = Path(__file__).resolve().parents[2]
FEATURES = cpu_features()
LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / "_native_attention.so"
    if reason := why_not(ROOT / SOURCE, path):
        pytest.skip(reason)
    return path


def forget() -> None:
    native_attention._library.cache_clear()
    native_attention.has_amx.cache_clear()


@pytest.fixture
def compiled(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel of this source in this process."""
    if "avx512_bf16" not in FEATURES:
        pytest.skip("this processor has no AVX-512 BF16")
    monkeypatch.setattr(native_attention, "LIBRARY", library)
    monkeypatch.delenv(native_attention.SWITCH, raising=False)
    forget()
    assert native_attention.is_available()
    yield
    monkeypatch.undo()
    forget()


@pytest.fixture(params=["matrix unit", "vector unit"])
def kernel(request: pytest.FixtureRequest, compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "vector unit":
        monkeypatch.setattr(native_attention, "has_amx", lambda: False)
    elif not native_attention.has_amx():
        pytest.skip("this processor has no AMX")


def rows(B: int, H: int, N: int, D: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B,H,N,D] that are views of packed rows, as networks have them."""
    q, k, v = torch.randn(B, N, 3, H, D).bfloat16().permute(2, 0, 3, 1, 4)
    return q, k, v


def exact(q: Tensor, k: Tensor, v: Tensor, *added: Tensor) -> Tensor:
    scores = q.double() @ k.double().mT * q.shape[-1] ** -0.5
    return sum((x.double() for x in added), start=scores).softmax(-1) @ v.double()


def is_close(found: Tensor, expected: Tensor, v: Tensor) -> bool:
    """Within a rounding of the weights and one of the results."""
    return bool((found.double() - expected).abs().max() <= 2.0**-8 * v.abs().max())


@pytest.mark.parametrize(
    ("B", "H", "N", "M", "D"),
    [
        (2, 3, 392, 392, 32),  # a window of Video Swin
        (3, 2, 98, 98, 32),
        (1, 2, 1569, 1569, 64),  # all tokens of a ViViT
        (2, 4, 197, 197, 64),
        (2, 1, 33, 65, 96),
        (1, 2, 32, 129, 128),
        (1, 1, 300, 1000, 160),
    ],
)
@pytest.mark.parametrize("factor", [1, 30])  # of the queries: scores within a bound, and beyond
@pytest.mark.usefixtures("kernel")
@torch.inference_mode()
def test_attention_is_softmax_of_scores_times_values(
    B: int, H: int, N: int, M: int, D: int, factor: float
) -> None:
    torch.manual_seed(0)
    q, k, v = rows(B, H, max(N, M), D)
    q, k, v = q[:, :, :N] * factor, k[:, :, :M], v[:, :, :M]
    assert native_attention.computes(q, k, v)
    found = native_attention.attend(q, k, v)
    assert found.shape == q.shape
    assert is_close(found, exact(q, k, v), v)


@pytest.mark.parametrize("factor", [1, 30])
@pytest.mark.parametrize(("with_bias", "with_mask"), [(True, False), (False, True), (True, True)])
@pytest.mark.usefixtures("kernel")
@torch.inference_mode()
def test_bias_and_the_mask_of_a_window_are_added(
    with_bias: bool, with_mask: bool, factor: float
) -> None:
    torch.manual_seed(0)
    B, H, N, M = 5, 3, 98, 112
    q, k, v = rows(B, H, M, 32)
    q = q[:, :, :N] * factor
    kind = torch.tensor([0, 2, 1, 2, 0])
    bias = torch.randn(H, N, M).bfloat16() if with_bias else None
    mask = torch.where(torch.rand(3, N, M) < 0.5, -100.0, 0.0).bfloat16() if with_mask else None
    if bias is not None:
        bias[..., N:] = -torch.inf  # rows that are unused
    found = native_attention.attend(q, k, v, bias, mask, kind)
    added = [] if bias is None else [bias]
    added += [] if mask is None else [mask[kind][:, None]]
    assert is_close(found, exact(q, k, v, *added), v)


@pytest.mark.usefixtures("kernel")
@torch.inference_mode()
def test_results_depend_on_neither_threads_nor_other_clips() -> None:
    torch.manual_seed(0)
    q, k, v = rows(5, 2, 200, 64)
    q[0] *= 40  # its scores need their maximum
    expected = native_attention.attend(q, k, v)
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        assert torch.equal(native_attention.attend(q, k, v), expected)
    torch.set_num_threads(before)
    for clip in range(5):
        alone = native_attention.attend(*(x[clip : clip + 1] for x in (q, k, v)))
        assert torch.equal(alone[0], expected[clip])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.usefixtures("kernel")
@torch.inference_mode()
def test_what_is_not_a_number_stays_in_its_row(value: float) -> None:
    torch.manual_seed(0)
    q, k, v = rows(2, 2, 96, 32)
    q[1, 0, 33] *= 60  # only its maximum keeps it finite
    expected = exact(q, k, v)
    q[1, 0, 40, 3] = value
    found = native_attention.attend(q, k, v)
    assert found[1, 0, 40].isnan().all()
    expected[1, 0, 40] = found[1, 0, 40] = 0
    assert is_close(found, expected, v)


@pytest.mark.usefixtures("compiled")
@torch.inference_mode()
def test_other_tensors_are_left_to_pytorch() -> None:
    q, k, v = rows(1, 2, 64, 32)
    assert native_attention.computes(q, k, v)
    assert not native_attention.computes(*(x.float() for x in (q, k, v)))
    assert not native_attention.computes(*(x[..., :16] for x in (q, k, v)))
    assert not native_attention.computes(*(x[:, :, :8] for x in (q, k, v)))
    assert not native_attention.computes(*(x.mT.contiguous().mT for x in (q, k, v)))


@pytest.mark.usefixtures("compiled")
def test_gradients_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_attention, "attend", lambda *given: pytest.fail("has no gradients"))
    q, k, v = (x.requires_grad_() for x in rows(1, 2, 64, 32))
    layers.attention(q, k, v).sum().backward()
    assert q.grad is not None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("compiled")
@torch.inference_mode()
def test_what_is_traced_or_counted_is_left_to_pytorch() -> None:
    q, k, v = rows(2, 2, 64, 32)
    expected = exact(q, k, v)
    with FlopCounterMode(display=False) as counter:
        assert is_close(layers.attention(q, k, v), expected, v)
    assert counter.get_total_flops() == 2 * 2 * (2 * 2 * 64 * 64 * 32)
    traced = torch.jit.trace(layers.attention, rows(2, 2, 64, 32), check_trace=False)
    assert is_close(traced(q, k, v), expected, v)


@pytest.mark.usefixtures("compiled")
@torch.no_grad()
def test_transformed_operators_are_pytorchs() -> None:
    q, k, v = rows(4, 2, 64, 32)
    found = torch.func.vmap(layers.attention)(*(x.unflatten(0, (2, 2)) for x in (q, k, v)))
    assert is_close(found.flatten(0, 1), exact(q, k, v), v)


@pytest.mark.parametrize("factor", [1e3, 1e5])
@pytest.mark.usefixtures("kernel")
@torch.inference_mode()
def test_the_largest_of_huge_scores_has_the_weight_1(factor: float) -> None:
    torch.manual_seed(0)
    q, k, v = rows(1, 2, 96, 64)
    q, k = q * factor, k * factor
    assert is_close(native_attention.attend(q, k, v), exact(q, k, v), v)


@pytest.mark.usefixtures("kernel")
@torch.inference_mode()
def test_keys_that_are_all_masked_alike_keep_their_weights() -> None:
    q, k, v = rows(2, 1, 64, 32)
    mask, kind = torch.full((1, 64, 64), -100.0), torch.zeros(2, dtype=torch.int32)
    found = native_attention.attend(q, k, v, None, mask, kind)
    assert is_close(found, exact(q, k, v, mask.bfloat16()), v)


@pytest.mark.usefixtures("kernel")
@torch.inference_mode()
def test_no_clips_are_a_batch_too() -> None:
    q, k, v = rows(0, 2, 64, 32)
    assert native_attention.attend(q, k, v).shape == q.shape


@pytest.mark.parametrize("why", ["switched off", "not compiled", "another source"])
@pytest.mark.usefixtures("compiled")
@torch.inference_mode()
def test_without_the_kernel_pytorch_computes_attention(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "switched off":
        monkeypatch.setenv(native_attention.SWITCH, "0")
    elif why == "not compiled":
        monkeypatch.setattr(native_attention, "LIBRARY", tmp_path / "none.so")
    else:
        monkeypatch.setattr(native_attention, "SOURCE", Path(__file__))
    forget()
    assert not native_attention.is_available()
    q, k, v = rows(1, 2, 64, 32)
    found = layers.attention(q, k, v)
    assert is_close(found, exact(q, k, v), v)
    assert (found - F.scaled_dot_product_attention(q, k, v)).abs().max() < 2e-2


@pytest.mark.usefixtures("compiled")
def test_too_little_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    no_memory = SimpleNamespace(vt_attend=lambda given: 0, vt_request_amx=lambda: 0)
    monkeypatch.setattr(native_attention, "_library", lambda: no_memory)
    with pytest.raises(MemoryError, match="attention"):
        native_attention.attend(*rows(1, 1, 64, 32))


@pytest.mark.usefixtures("library")
def test_fields_have_the_places_of_the_c_structure(tmp_path: Path) -> None:
    """Its size tells: pointers and integers have eight bytes, and the scale is padded to them."""
    program = tmp_path / "size.c"
    program.write_text(
        f'#include "{ROOT / SOURCE}"\nlong vt_size(void) {{ return sizeof(Attention); }}\n'
    )
    assert why_not(program, tmp_path / "size.so") == ""
    size = ctypes.CDLL(str(tmp_path / "size.so")).vt_size()
    assert size == ctypes.sizeof(native_attention._Attention)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.usefixtures("kernel")
@torch.inference_mode()
def test_video_swin_has_the_same_logits(split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shifted windows, split at the ends of the grid or with masks."""
    monkeypatch.setattr(videoswin, "MIN_SPLIT", 0 if split else 10**12)
    config = VideoSwinConfig(
        width=64, depths=(2,), num_heads=(2,), window_size=(4, 7, 7), num_classes=5, drop_path=0.0
    )
    torch.manual_seed(0)
    model = videoswin.VideoSwin(config).eval()
    model.init_weights()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    clip = torch.randn(2, 3, 16, 56, 56)
    expected = model(clip)
    calls = []
    attend = native_attention.attend
    monkeypatch.setattr(native_attention, "attend", lambda *g: calls.append(0) or attend(*g))
    found = model.bfloat16()(clip.bfloat16())
    assert calls
    assert (found - expected).abs().max() <= 0.03 * expected.abs().max()


@pytest.mark.parametrize("name", ["uniformerv2-b", "vivit-b-fe"])
@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@torch.inference_mode()
def test_other_networks_have_the_same_features(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = vtcli.create_model(name, num_classes=10).eval().bfloat16()
    clip = torch.randn(1, 3, model.config.num_frames, *[model.config.image_size] * 2).bfloat16()
    found = model.features(clip)
    monkeypatch.setenv(native_attention.SWITCH, "0")
    expected = model.features(clip)
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() <= 0.03 * expected.abs().max()


def build(folder: Path, compiler: str) -> list[str]:
    """Build a wheel of a copy of the package; the names in it, the wheel's own first."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("_native_attention.*", "__pycache__", "nano")
    shutil.copytree(ROOT / "vtcli" / "models", tree / "vtcli" / "models", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "weights_registry.toml"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("vtcli/_version.py", "vtcli/__init__.py", "tools/build_hook.py"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    environment = {**os.environ, "CC": compiler}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return [wheel.name, done.stdout + done.stderr, *file.namelist()]


@pytest.mark.skipif(not LINUX, reason="the kernel is compiled on Linux alone")
@pytest.mark.usefixtures("library")
def test_a_wheel_carries_the_kernel(tmp_path: Path) -> None:
    wheel, _, *names = build(tmp_path, os.environ.get("CC") or "cc")
    assert wheel.endswith("-py3-none-manylinux_2_17_x86_64.whl")
    assert "vtcli/models/_native_attention.so" in names


@pytest.mark.skipif(not LINUX, reason="the kernel is compiled on Linux alone")
@pytest.mark.parametrize("compiler", ["false", "/no/such/compiler"])
def test_without_a_compiler_the_wheel_is_pure_python(compiler: str, tmp_path: Path) -> None:
    wheel, output, *names = build(tmp_path, compiler)
    assert wheel.endswith("-py3-none-any.whl")
    assert not [name for name in names if name.endswith(".so")]
    assert "built without _native_attention.so" in output
