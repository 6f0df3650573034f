"""Facts for `vt doctor`: versions, processor, decoders, cache and Hub.

Decoders are tested in a process of their own, so that a crash in one of them is reported, too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from vtcli._version import __version__
from vtcli.runtime.words import plural
from vtcli.weights.cache import cache_dir
from vtcli.weights.registry import load_registry, registry_path

PACKAGES = (
    "torch",
    "av",
    "decord",
    "timm",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "typer",
    "rich",
    "jinja2",
    "matplotlib",
    "tensorboard",
    "onnxruntime",
    "openvino",
)
DECODER_TIMEOUT = 60  # seconds
HUB_TIMEOUT = 5  # seconds


def diagnose() -> dict[str, dict[str, Any]]:
    """Sections of facts, in the order they are printed."""
    return {
        "vt": _versions(),
        "machine": _machine(),
        "decoding": _decoders(),
        "weights": _weights(),
        "hub": _hub(),
    }


def _versions() -> dict[str, str]:
    facts = {"vtcli": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    try:
        facts["opencv"] = importlib.import_module("cv2").__version__
    except Exception:  # also where a library that it needs is missing
        facts["opencv"] = "not installed; frames would be resized faster"
    return facts


def _machine() -> dict[str, str]:
    import torch

    from vtcli.runtime.device import cpu_features, precision_name, resolve_device, resolve_dtype

    device = resolve_device("auto")
    facts = {
        "system": platform.platform(),
        "cpu": ", ".join(cpu_features()) or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "--device auto": str(device),
        "--precision auto": precision_name(resolve_dtype("auto", device)),
        "attention in bf16": _attention(),
    }
    if device.type != "cpu":
        cpu = torch.device("cpu")
        facts["... on the CPU"] = precision_name(resolve_dtype("auto", cpu))
    return facts


def _attention() -> str:
    """What computes attention in bf16 on the CPU."""
    from vtcli.models import native_attention
    from vtcli.runtime.device import cpu_features

    if native_attention.is_available():
        return "compiled kernel, " + ("AMX" if native_attention.has_amx() else "AVX-512 BF16")
    if "avx512_bf16" not in cpu_features() or sys.platform != "linux":
        return "PyTorch"
    if os.environ.get(native_attention.SWITCH) == "0":
        return f"PyTorch, because {native_attention.SWITCH} is 0"
    return "PyTorch; faster if vtcli is installed with a C compiler"


def _decoders() -> dict[str, str]:
    """Each codec, encoded and read back by each decoder in a process of their own."""
    command = [sys.executable, "-m", "vtcli.video.decoder_check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DECODER_TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"self-test": f"timed out after {DECODER_TIMEOUT} s"}
    if done.returncode != 0:
        return {
            "self-test": f"failed with exit code {done.returncode}: {done.stderr.strip()[-200:]}"
        }
    rows = json.loads(done.stdout)
    return {row["codec"]: f"{row['status']} {row['detail']}".strip() for row in rows}


def _weights() -> dict[str, str]:
    folder = cache_dir()
    files = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    megabytes = sum(p.stat().st_size for p in files) / 1e6
    rows = load_registry().checkpoints.values()
    available = sum(row.available for row in rows)
    return {
        "registry": f"{registry_path()}: {plural(len(rows), 'checkpoint')}, {available} available",
        "extra registry": os.environ.get("VT_REGISTRY", "") or "none ($VT_REGISTRY)",
        "local files": os.environ.get("VT_WEIGHTS", "") or "none ($VT_WEIGHTS)",
        "cache": f"{folder}: {plural(len(files), 'file')}, {megabytes:.0f} MB",
    }


def _hub() -> dict[str, str]:
    from huggingface_hub import constants, get_token

    facts = {
        "endpoint": constants.ENDPOINT,
        "cache": str(Path(constants.HF_HUB_CACHE)),
        "token": "set" if get_token() else "none",
    }
    if constants.HF_HUB_OFFLINE:
        return facts | {"reachable": "not tested: offline mode (HF_HUB_OFFLINE)"}
    return facts | {"reachable": _reachable(constants.ENDPOINT)}


def _reachable(endpoint: str) -> str:
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(f"{endpoint}/api/models?limit=1", timeout=HUB_TIMEOUT):
            return "yes"
    except HTTPError as error:
        return f"yes (HTTP status {error.code})"
    except (URLError, OSError, ValueError) as error:
        return f"no ({getattr(error, 'reason', error)})"
