"""Agreement of bf16 predictions with fp32: python benchmarks/agreement.py MODEL [MODEL ...]

Each model (an id or one of our files) classifies the same seeded synthetic clips in both
precisions. Printed are the number of clips with the same top-1 class, the largest difference of a
probability, and the largest fp32 margin between two different top-1 classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vtcli.models.build import clip_shape
from vtcli.weights.load import load_model


def synthetic_clips(count: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Clips [1,3,T,H,W] of unit variance: coarse and fine random patterns that drift."""
    _, T, H, W = shape
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        clip_CTHW = torch.randn(3, 1, 1, 1, generator=generator).expand(shape).clone()
        for cells in (2, 7, 28):
            grid = torch.randn(1, 3, cells, 2 * cells, generator=generator)
            wide_CHW = F.interpolate(grid, (H, 2 * W), mode="bicubic", align_corners=False)[0]
            speed = float(torch.rand((), generator=generator)) * W / T
            for t in range(T):
                left = round(t * speed)
                clip_CTHW[:, t] += wide_CHW[:, :, left : left + W]
        yield ((clip_CTHW - clip_CTHW.mean()) / clip_CTHW.std())[None]


def compare(name: str, count: int) -> str:
    """The line that is printed for a model."""
    nets = {p: load_model(name, precision=p) for p in ("fp32", "bf16")}
    shape = clip_shape(nets["fp32"].config)
    heads = [head.size for head in nets["fp32"].card.heads]  # type: ignore[union-attr]
    same, largest, margins = 0, 0.0, [0.0]
    classes = set()
    for clip in synthetic_clips(count, shape):
        with torch.inference_mode():
            probs = {
                p: _first_head(net(clip.to(net.dtype)), heads).float().softmax(-1)[0]
                for p, net in nets.items()
            }
        top1, other = int(probs["fp32"].argmax()), int(probs["bf16"].argmax())
        classes.add(top1)
        same += top1 == other
        largest = max(largest, float((probs["fp32"] - probs["bf16"]).abs().max()))
        margins.append(float(probs["fp32"][top1] - probs["fp32"][other]))
    return (
        f"{name}: same top-1 class {same} of {count} ({len(classes)} classes predicted), largest "
        f"difference of a probability {largest:.2e}, largest margin lost {max(margins):.2e}"
    )


def _first_head(logits: Tensor | dict[str, Tensor], sizes: list[int]) -> Tensor:
    return next(iter(logits.values())) if isinstance(logits, dict) else logits[:, : sizes[0]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--clips", type=int, default=200)
    args = parser.parse_args()
    for name in args.models:
        print(compare(name, args.clips), flush=True)


if __name__ == "__main__":
    main()
