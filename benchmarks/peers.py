"""Our networks against those of other packages: python benchmarks/peers.py [MODEL ...]

One process has our network and a peer with the same weights, in every requested precision. First
their logits for the same clip are compared; then both are timed in each round, together with a
matrix product (the faster of 2048^3 and the model's largest one). Printed are the medians and
ranges of the ratios. Peers: torchvision's swin3d_* and transformers' VivitForVideoClassification; a
model without a peer is compared with the rate of the matrix product only.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from vtcli.models import get_architecture
from vtcli.models.build import clip_shape, prepare_for_inference
from vtcli.models.layouts import from_vt
from vtcli.profiling.benchmark import MATMUL_SIZE, peak_matmul_macs_per_s, seconds_of
from vtcli.profiling.flops import count
from vtcli.runtime.device import cpu_features, resolve_device, resolve_dtype
from vtcli.weights.load import create_model
from vtcli.weights.model_config import model_config

Weights = Mapping[str, Tensor]
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

        settings = VivitConfig(
            image_size=config.image_size,
            num_frames=config.num_frames,
            tubelet_size=list(config.tubelet_size),
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            intermediate_size=round(config.mlp_ratio * config.width),
            num_labels=config.num_classes,
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
}


class Contest:
    """Our network and the peer in all precisions, with the clip that they are timed on."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.device = name, resolve_device(args.device)
        self.precisions: Sequence[str] = args.precision
        architecture, config = model_config(name)
        self.cost = count(architecture.name, config)
        fresh = create_model(name)
        with torch.no_grad():
            for parameter in fresh.parameters():
                # No weight may be zero, or an error in it would have no effect.
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        weights = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
        self.runs: dict[tuple[str, str], Callable[[], Any]] = {}
        clip = torch.randn(args.batch_size, *clip_shape(config))
        self.batch_size = args.batch_size
        for precision in self.precisions:
            dtype = resolve_dtype(precision, self.device)
            ours = create_model(name)
            ours.load_state_dict(weights)
            self._add(
                "ours", precision, prepare_for_inference(ours, None, self.device, dtype), clip
            )
            if (build := PEERS[name]) is not None:
                peer = build(weights, config).to(self.device, dtype).eval()
                self._add("peer", precision, peer, clip)

    def _add(self, who: str, precision: str, net: nn.Module, clip: Tensor) -> None:
        clip = clip.to(self.device, resolve_dtype(precision, self.device))
        self.runs[who, precision] = partial(net, clip)

    def compare(self) -> None:
        """Print the difference of the logits, and exit if it is too large."""
        for precision in self.precisions:
            if ("peer", precision) not in self.runs:
                continue
            ours, theirs = (self.runs[who, precision]().float() for who in ("ours", "peer"))
            difference = (ours - theirs).abs().max().item()
            largest = theirs.abs().max().item()
            print(
                f"{self.name} {precision}: logits differ by at most {difference:.1e} "
                f"(largest logit {largest:.2f})"
            )
            if not difference <= TOLERANCE[precision] * largest:
                raise SystemExit(f"{self.name}: our network and the peer differ")

    def time(self, rounds: int) -> None:
        """Print shares of the matrix rate and ratios of times, ours and the peer's in turn."""
        rows, inner, columns = self.cost.largest_matmul
        products = [(MATMUL_SIZE,) * 3, (rows * self.batch_size, inner, columns)]
        rates: dict[str, list[float]] = {precision: [] for precision in self.precisions}
        times: dict[tuple[str, str], list[float]] = {key: [] for key in self.runs}
        for run in self.runs.values():
            run()
        for _ in range(rounds):
            for precision in self.precisions:
                dtype = resolve_dtype(precision, self.device)
                rates[precision].append(peak_matmul_macs_per_s(products, self.device, dtype))
            for key, run in self.runs.items():
                times[key].append(seconds_of(run, self.device))
        for precision in self.precisions:
            self._print_shares(precision, rates[precision], times)
            self._print_ratios(precision, times)

    def _print_shares(
        self, precision: str, rates: list[float], times: Mapping[tuple[str, str], list[float]]
    ) -> None:
        macs = (self.cost.macs_paper or self.cost.macs_executed) * self.batch_size
        for who in ("ours", "peer"):
            if (took := times.get((who, precision))) is not None:
                shares = [macs / t / rate for t, rate in zip(took, rates, strict=True)]
                print(
                    f"{self.name:16} {precision} {who}: {1e3 * median(took):8.1f} ms, "
                    f"{spread(shares)} of the matrix rate ({2 * median(rates) / 1e9:.0f} GFLOP/s)"
                )

    def _print_ratios(self, precision: str, times: Mapping[tuple[str, str], list[float]]) -> None:
        """Against the peer in the same precision, and in the first requested one."""
        for other in dict.fromkeys((precision, self.precisions[0])):
            if (theirs := times.get(("peer", other))) is not None:
                took = times["ours", precision]
                ratios = [t / ours for t, ours in zip(theirs, took, strict=True)]
                print(f"{self.name:16} {precision} is {spread(ratios)} x as fast as peer {other}")


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def print_machine(device: torch.device) -> None:
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "torchvision")]
    versions.append(f"transformers {importlib.metadata.version('transformers')}")
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else ", ".join(cpu_features())
    print(f"{datetime.date.today()}, {device} ({name}), {torch.get_num_threads()} threads")
    print(", ".join(versions), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(PEERS), metavar="MODEL")
    parser.add_argument("--precision", nargs="*", default=["fp32", "bf16"], choices=TOLERANCE)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if unknown := set(args.models) - set(PEERS):
        parser.error(f"unknown model {min(unknown)}; known are {', '.join(PEERS)}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print_machine(resolve_device(args.device))
    with torch.inference_mode():
        for name in args.models:
            contest = Contest(name, args)
            contest.compare()
            contest.time(args.rounds)


if __name__ == "__main__":
    main()
