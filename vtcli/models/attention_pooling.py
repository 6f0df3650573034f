"""Attention with a single query, which pools the tokens of a clip.

Shapes: B clips, M tokens, C channels, H heads, D channels per head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vtcli.models.opaque import plain


def attend_with_one_query(x_BC: Tensor, y_BMC: Tensor, qkv: nn.Linear, num_heads: int) -> Tensor:
    """Attention of one token x to M tokens y, with packed q, k, v rows -> [B,C], before `proj`.

    With a single query, keys and values need not be projected for every token: the key projection
    is folded into the query, and the value projection is applied to the pooled tokens. The key bias
    adds the same number to every score of a head and cancels in the softmax.
    Without a bias the three are taken as zero.
    """
    C, H = x_BC.shape[-1], num_heads
    w_q, w_k, w_v = plain(qkv.weight).chunk(3)
    b_q, _, b_v = (None, None, None) if qkv.bias is None else qkv.bias.chunk(3)
    q_BHD = (F.linear(x_BC, w_q, b_q) * (C // H) ** -0.5).view(-1, H, C // H)
    q_HBC = q_BHD.transpose(0, 1) @ w_k.view(H, C // H, C)
    scores_BHM = q_HBC.transpose(0, 1) @ y_BMC.transpose(1, 2)
    pooled_BHC = scores_BHM.softmax(-1) @ y_BMC
    v_HBD = pooled_BHC.transpose(0, 1) @ w_v.view(H, C // H, C).transpose(1, 2)
    v_BC = v_HBD.transpose(0, 1).flatten(1)
    return v_BC if b_v is None else v_BC + b_v
