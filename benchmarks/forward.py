"""How near a forward pass comes to the machine's own matrix rate: python benchmarks/forward.py
[MODEL ...]

In one process and in turn, round by round: a 2048^3 matrix product, the model's largest one, and
the model's forward pass at batch 1 (random weights), each in the same type and with the same
threads. Printed is the share of the best matrix rate that the forward pass reaches, counted by
published multiply-accumulates; median over the rounds, and the range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from vtcli.engine.loading import clip_shape, create_model, finish, model_config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def largest_product(model: nn.Module, clip: torch.Tensor) -> tuple[int, int, int]:
    """Rows, inner and outer size of the linear layer that multiplies most in one forward pass."""
    sizes: list[tuple[int, int, int]] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        sizes.append((inputs[0].numel() // module.in_features, *module.weight.shape[::-1]))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.inference_mode():
        model(clip)
    for hook in hooks:
        hook.remove()
    return max(sizes, key=lambda s: s[0] * s[1] * s[2])


def measure(name: str, precision: str, rounds: int, device: torch.device) -> str:
    dtype = DTYPES[precision]
    architecture, config = model_config(name)
    model = finish(create_model(name), None, device, dtype)
    clip = torch.randn(1, *clip_shape(config), device=device, dtype=dtype)
    m, k, n = largest_product(model, clip)
    products = {
        2048**3: [torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(2)],
        m * k * n: [
            torch.randn(m, k, device=device, dtype=dtype),
            torch.randn(k, n, device=device, dtype=dtype),
        ],
    }
    macs = architecture.published_macs(config)
    shares, rates, times = [], [], []
    with torch.inference_mode():
        model(clip)
        for _ in range(rounds):
            rate = max(
                size / min(seconds(partial(torch.matmul, a, b), device) for _ in range(3))
                for size, (a, b) in products.items()
            )
            took = seconds(partial(model, clip), device)
            shares.append(macs / took / rate)
            rates.append(2 * rate / 1e9)
            times.append(took)
    return (
        f"{name:24} {precision}  {statistics.median(shares):5.2f} of the matrix rate "
        f"({min(shares):.2f}-{max(shares):.2f})   {1e3 * statistics.median(times):7.1f} ms, "
        f"matrix rate {statistics.median(rates):.0f} GFLOP/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["uniformerv2-b"])
    parser.add_argument("--precision", nargs="*", default=["fp32", "bf16"], choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    for name in args.models:
        for precision in args.precision:
            print(measure(name, precision, args.rounds, torch.device(args.device)), flush=True)


if __name__ == "__main__":
    main()
