"""Our networks against other packages and engines: python benchmarks/peers.py [MODEL ...]

One process has our network and its peers with the same weights, in every requested precision. First
their logits for the same clip are compared; then all are timed in each round, together with a
matrix product (the faster of 2048^3 and the model's largest one). Printed are the medians and
ranges of wall time, CPU time and their ratios, for each number of --threads. Peers: torchvision's
swin3d_* and transformers' VivitForVideoClassification, and for every model OpenVINO and ONNX
Runtime with the exported graph (--engines, on a CPU alone). Whether waiting threads spin follows
the environment: GOMP_SPINCOUNT=3000 is what `vt` sets. Freed memory is kept as by `vt`, for all.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from engines import ENGINES, exported
from torch import Tensor, nn

from vtcli.__main__ import WAIT_POLICIES
from vtcli.models import get_architecture
from vtcli.models.build import clip_shape, prepare_for_inference
from vtcli.models.layouts import from_vt
from vtcli.profiling.benchmark import MATMUL_SIZE, peak_matmul_macs_per_s, seconds_of
from vtcli.profiling.flops import count
from vtcli.runtime.device import cpu_features, resolve_device, resolve_dtype
from vtcli.runtime.memory import keep_freed_memory
from vtcli.weights.load import create_model
from vtcli.weights.model_config import model_config

Weights = Mapping[str, Tensor]
# By who computes and precision: seconds of wall and CPU time of each round.
Times = Mapping[tuple[str, str], list[tuple[float, float]]]
PAUSE_SECONDS = 0.05
# Largest tolerated difference of a logit, as a fraction of the largest logit.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}


def torchvision_swin(name: str, weights: Weights, config: Any) -> nn.Module:
    """torchvision's Swin3D with our weights."""
    from torchvision.models import video

    peer: nn.Module = getattr(video, name)(num_classes=config.num_classes)
    layout = get_architecture("videoswin").layouts["torchvision"]
    peer.load_state_dict(from_vt(layout, weights, config))
    return peer


class TransformersViViT(nn.Module):
    """transformers' ViViT with our weights; it takes frames before channels."""

    def __init__(self, weights: Weights, config: Any) -> None:
        super().__init__()
        from safetensors.torch import save_file
        from transformers import VivitConfig, VivitForVideoClassification

        classes = {"num_labels": config.num_classes}  # taken, but not in the signature
        settings = VivitConfig(
            image_size=config.image_size,
            num_frames=config.num_frames,
            tubelet_size=list(config.tubelet_size),
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            intermediate_size=round(config.mlp_ratio * config.width),
            **classes,
        ).to_dict()
        theirs = from_vt(get_architecture("vivit").layouts["hf"], weights, config)
        with tempfile.TemporaryDirectory() as folder:
            save_file(
                {name: tensor.contiguous() for name, tensor in theirs.items()},
                Path(folder, "model.safetensors"),
                metadata={"format": "pt"},
            )
            Path(folder, "config.json").write_text(json.dumps(settings))
            self.model = VivitForVideoClassification.from_pretrained(folder)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        logits: Tensor = self.model(clip_BCTHW.transpose(1, 2)).logits
        return logits


PEERS: dict[str, Callable[[Weights, Any], nn.Module] | None] = {
    "videoswin-t": partial(torchvision_swin, "swin3d_t"),
    "videoswin-s": partial(torchvision_swin, "swin3d_s"),
    "videoswin-b": partial(torchvision_swin, "swin3d_b"),
    "vivit-b": TransformersViViT,
    "uniformerv2-b": None,
    "xvit-b": None,
    **{f"{name}-nano": None for name in ("uniformerv2", "videoswin", "vivit", "xvit")},
}


class Contest:
    """Our network, a peer's and the engines in all precisions, with the clip they are timed on."""

    def __init__(self, name: str, args: argparse.Namespace, graphs: Path) -> None:
        self.name, self.device = name, resolve_device(args.device)
        self.precisions: Sequence[str] = args.precision
        torch.manual_seed(0)
        architecture, config = model_config(name)
        self.cost = count(architecture.name, config)
        fresh = create_model(name)
        with torch.no_grad():
            for parameter in fresh.parameters():
                # No weight may be zero, or an error in it would have no effect.
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        weights = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
        self.runs: dict[tuple[str, str], Callable[[], Any]] = {}
        self.clip = torch.randn(args.batch_size, *clip_shape(config))
        self.batch_size = args.batch_size
        for precision in self.precisions:
            dtype = resolve_dtype(precision, self.device)
            ours = create_model(name)
            ours.load_state_dict(weights)
            ours = prepare_for_inference(ours, None, self.device, dtype, packed=True)
            self._add("ours", precision, ours)
            if (build := PEERS[name]) is not None:
                peer = build(weights, config).to(self.device, dtype).eval()
                self._add("peer", precision, peer)
        self.engines: Sequence[str] = args.engines if self.device.type == "cpu" else ()
        if self.engines:
            self.graph = exported(fresh.eval(), self.clip, graphs / f"{name}.onnx")

    def _add(self, who: str, precision: str, net: nn.Module) -> None:
        clip = self.clip.to(self.device, resolve_dtype(precision, self.device))
        self.runs[who, precision] = partial(net, clip)

    def set_threads(self, threads: int) -> None:
        """Compute with this many threads from now on."""
        torch.set_num_threads(threads)
        for name in self.engines:
            engine = ENGINES[name]
            for precision in self.precisions:
                if precision in engine.precisions:
                    run = engine.build(self.graph, precision, self.clip, threads)
                    self.runs[name, precision] = run

    def compare(self) -> None:
        """Print the differences of the logits, and exit if one is too large.

        Also what runs everything once before it is timed.
        """
        logits = {key: run().float() for key, run in self.runs.items()}
        for (who, precision), theirs in logits.items():
            if who == "ours":
                continue
            ours = logits["ours", precision]
            difference = (ours - theirs).abs().max().item()
            largest = theirs.abs().max().item()
            print(
                f"{self.name} {precision}: logits differ by at most {difference:.1e} from "
                f"{who}'s (largest logit {largest:.2f})"
            )
            if not difference <= TOLERANCE[precision] * largest:
                raise SystemExit(f"{self.name}: our network and {who} differ")

    def time(self, rounds: int, seconds: float) -> None:
        """Print shares of the matrix rate and ratios of times, all in turn.

        After so many seconds no further round is begun.
        """
        rows, inner, columns = self.cost.largest_matmul
        products = [(MATMUL_SIZE,) * 3, (rows * self.batch_size, inner, columns)]
        rates: dict[str, list[float]] = {precision: [] for precision in self.precisions}
        times: Times = {key: [] for key in self.runs}
        began = time.monotonic()
        for number in range(rounds):
            if number and time.monotonic() - began > seconds:
                break
            for precision in self.precisions:
                dtype = resolve_dtype(precision, self.device)
                rates[precision].append(peak_matmul_macs_per_s(products, self.device, dtype))
            for key, run in self.runs.items():
                # Threads of the run before may still spin, which would count as this one's.
                time.sleep(PAUSE_SECONDS)
                cpu = time.process_time()
                wall = seconds_of(run, self.device)
                times[key].append((wall, time.process_time() - cpu))
        for precision in self.precisions:
            self._print_times(precision, rates[precision], times)
            self._print_ratios(precision, times)

    def _print_times(self, precision: str, rates: list[float], times: Times) -> None:
        macs = (self.cost.macs_paper or self.cost.macs_executed) * self.batch_size
        for (who, of), took in times.items():
            if of == precision:
                shares = [macs / wall / rate for (wall, _), rate in zip(took, rates, strict=True)]
                wall, cpu = (spread([1e3 * pair[i] for pair in took], 1) for i in (0, 1))
                print(
                    f"{self.name:14} {precision} {who:11}: {wall} ms wall, {cpu} ms CPU, "
                    f"{spread(shares, 2)} of {2 * median(rates) / 1e9:.0f} GFLOP/s"
                )

    def _print_ratios(self, precision: str, times: Times) -> None:
        """Against the others in the same precision, and in the first requested one."""
        took = times["ours", precision]
        for (who, other), theirs in times.items():
            if who != "ours" and other in (precision, self.precisions[0]):
                pairs = list(zip(theirs, took, strict=True))
                wall, cpu = (spread([t[i] / o[i] for t, o in pairs], 2) for i in (0, 1))
                print(
                    f"{self.name:14} {precision} is {wall} x as fast as {who} {other}, "
                    f"{cpu} x in CPU time"
                )


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def print_machine(device: torch.device, engines: Sequence[str]) -> None:
    packages = ["torch", "torchvision", "transformers", *(ENGINES[e].package for e in engines)]
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else ", ".join(cpu_features())
    policies = [f"{key}={os.environ[key]}" for key in WAIT_POLICIES if key in os.environ]
    print(f"{datetime.date.today()}, {device} ({name}); {', '.join(policies) or 'threads spin'}")
    print(", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(PEERS), metavar="MODEL")
    parser.add_argument("--precision", nargs="*", default=["fp32", "bf16"], choices=TOLERANCE)
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=600, help="begin no round after these")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="*", default=[torch.get_num_threads()])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--graphs", type=Path, help="folder that keeps exported graphs")
    args = parser.parse_args()
    if unknown := set(args.models) - set(PEERS):
        parser.error(f"unknown model {min(unknown)}; known are {', '.join(PEERS)}")
    keep_freed_memory()
    print_machine(resolve_device(args.device), args.engines)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            contest = Contest(name, args, args.graphs or Path(folder))
            for threads in args.threads:
                with torch.inference_mode():
                    contest.set_threads(threads)
                    print(f"{name}, {threads} threads", flush=True)
                    contest.compare()
                    contest.time(args.rounds, args.seconds)


if __name__ == "__main__":
    main()
