"""Resolves `--device` and `--precision` to what this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from vtcli.errors import UsageError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def cpu_features() -> list[str]:
    """The instruction sets relevant to matrix products that PyTorch detects."""
    import torch

    tests = {
        "avx2": "_is_avx2_supported",
        "avx512": "_is_avx512_supported",
        "avx512_vnni": "_is_vnni_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx_tile": "_is_amx_tile_supported",
        "amx_fp16": "_is_amx_fp16_supported",
    }
    return [name for name, test in tests.items() if getattr(torch.cpu, test, lambda: False)()]


def cpu_name() -> str:
    """The processor's name as PyTorch knows it, "" where it does not."""
    import torch

    asked = getattr(torch.cpu, "get_capabilities", None)  # older PyTorch has none
    return "" if asked is None else str(asked().get("cpu_name", ""))


def resolve_device(device: str) -> torch.device:
    """The device to run on; `auto` is the first available of CUDA, Apple's MPS and the CPU.

    Raises `UsageError` for a device that this machine does not have.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(_no_device(device)) from error
    return chosen


def _no_device(device: str) -> str:
    """The sentence for a device that cannot be used: what this machine has, and why no more."""
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    here = [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    hint = ""
    if not gpus and device.lower().startswith(("cuda", "gpu", "nvidia")):
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        hint = (
            " (PyTorch sees no GPU: check its driver with nvidia-smi)"
            if built
            else " (this PyTorch is built for CPUs only)"
        )
    return (
        f"there is no device '{device}' on this machine{hint}; try --device "
        f"{' or '.join([*here, 'auto'])}"
    )


SMALL_PARAMETERS = 3_000_000
"""A single clip of a smaller network takes up to 1.3 times as long in bf16 on a CPU."""


def supports_bf16_matmul(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 matrices itself, faster than fp32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool({"avx512_bf16", "amx_tile"} & set(cpu_features()))


def check_precision(precision: str) -> None:
    """Raise `UsageError` for an unknown precision."""
    known = get_args(Precision)
    if precision not in known:
        raise UsageError(f"unknown precision '{precision}'; it is one of {', '.join(known)}")


def resolve_dtype(
    precision: str, device: torch.device, parameters: int | None = None
) -> torch.dtype:
    """The data type of activations and weights; `auto` is bf16 where the hardware supports it, else
    fp32.

    A network of less than `SMALL_PARAMETERS` is in fp32 on a CPU with `auto` (None: it is larger).
    The batch size is not considered, so that scores do not depend on it.
    Raises `UsageError` for fp16 on a CPU, where it is slower and less accurate.
    """
    import torch

    check_precision(precision)
    if precision == "auto":
        is_small = parameters is not None and parameters < SMALL_PARAMETERS
        if (device.type == "cpu" and is_small) or not supports_bf16_matmul(device):
            return torch.float32
        return torch.bfloat16
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("fp16 needs a GPU; on a CPU use bf16, fp32 or auto")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def precision_name(dtype: torch.dtype) -> str:
    """fp32, bf16 or fp16."""
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[str(dtype).split(".")[-1]]
