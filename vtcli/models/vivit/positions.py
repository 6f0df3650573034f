"""Position embeddings of ViViT for another number of frames.

Shape legend: T steps in time, N positions of a step, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from vtcli.errors import UsageError
from vtcli.models.vivit.configs import ViViTConfig


def resize_over_time(
    tensors: Mapping[str, Tensor], before: ViViTConfig, after: ViViTConfig
) -> dict[str, Tensor]:
    """The tensors of a network for clips of another number of frames.

    Positions are interpolated linearly over time with aligned ends, as an image model's are over
    space (`image_init.fit_positions`); the class token's is kept. Raises `UsageError` for a clip
    that does not fill one tubelet.
    """
    (old, *_), (new, rows, columns) = before.grid, after.grid
    if not new:
        raise UsageError(
            f"--num-frames {after.num_frames} does not fill a tubelet of {after.tubelet_size[0]} "
            "frames; raise it"
        )
    factorized = after.attention == "factorized_encoder"
    name = "temporal.pos_embed" if factorized else "encoder.pos_embed"
    if old == new or name not in tensors:
        return dict(tensors)
    positions = 1 if factorized else rows * columns
    token_11C, grid_1LC = tensors[name].split([int(after.class_token), old * positions], dim=1)
    series_NCT = grid_1LC.unflatten(1, (old, positions))[0].permute(1, 2, 0)
    resized_NCT = F.interpolate(series_NCT, new, mode="linear", align_corners=True)
    resized_1LC = resized_NCT.permute(2, 0, 1).flatten(0, 1)[None]
    return {**tensors, name: torch.cat([token_11C, resized_1LC], dim=1)}
