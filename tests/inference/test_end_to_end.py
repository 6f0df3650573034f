"""A full-size file in an upstream's own format and a real clip give the scores of that upstream.

Needs the reference scores in $VT_GOLDEN, with the folder `clips` next to it; all are slow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.goldens import big_golden, load_manifest
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import VideoPrediction
from vtcli.labels import load_permutation
from vtcli.weights.convert import convert
from vtcli.weights.formats.flax import write_flax

# golden -> checkpoint id, views (None: the published protocol), pipeline (None: the id's own)
CASES: dict[str, tuple[str, str, str | None]] = {
    "uniformerv2_b16_8x224_k400_official": ("uniformerv2-b.k400-8f", "paper", None),
    "uniformerv2_b16_8x224_k400_mmaction2": ("uniformerv2-b.k400-8f-mm", "paper", None),
    "uniformerv2_b16_16x224_ssv2_official_bgr": ("uniformerv2-b-local.ssv2-16f", "paper", None),
    "swin_tiny_k400_official": ("videoswin-t.k400-in1k-32f", "paper", None),
    "swin_base_window1677_sthv2_official": ("videoswin-b-w16.ssv2-k400-32f", "paper", None),
    "swin_swin3d_t_torchvision_12clips": ("videoswin-t.k400-in1k-32f-tv", "paper", None),
    "swin_swin3d_t_torchvision_centre": ("videoswin-t.k400-in1k-32f-tv", "1x1", None),
    "vivit_b16x2_k400_scenic": ("vivit-b.k400-in21k-32f", "paper", None),
    "vivit_hf_b16x2_k400_nonorm": ("vivit-b.k400-in21k-32f", "1x1", "vivit-hf"),
    "vivit_hf_b16x2_k400_default": ("vivit-b.k400-in21k-32f", "1x1", "vivit-hf-default"),
    "xvit_k600_b16_16f_official": ("xvit-b.k600-16f", "paper", None),
    "xvit_ssv2_b16_16f_official": ("xvit-b.ssv2-16f", "paper", None),
}


def upstream_file(folder: Path, about: dict[str, Any]) -> Path:
    """The golden's weights in the container its upstream writes."""
    manifest, tensors = load_manifest(big_golden(*f"{about['golden_weights']}.json".split("/")))
    path = folder / "checkpoint"
    layout, arch = manifest["layout"], manifest["arch"]
    if layout == "scenic":
        write_flax(path, tensors)
    elif layout == "hf":
        save_file(tensors, path)
    else:
        content: dict[str, Any] = dict(tensors)
        if arch == "xvit":
            content = {"epoch": 29, "model_state": tensors, "optimizer_state": {}}
        elif layout == "mmaction2" or (arch, layout) == ("videoswin", "official"):
            content = {"meta": {}, "state_dict": tensors}
        torch.save(content, path)
    return path


def head_order(name: str, classes: int) -> Tensor:
    """Upstream's row of each of our classes."""
    if name == "uniformerv2_b16_8x224_k400_official":
        return torch.tensor(load_permutation("uniformerv2_to_alpha_k400"))
    return torch.arange(classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_and_a_clip_give_upstreams_scores(name: str, tmp_path: Path) -> None:
    model, views, pipeline = CASES[name]
    about = json.loads(big_golden("e2e", f"{name}_A.json").read_text())
    expected = load_file(big_golden("e2e", f"{name}_A.safetensors"))
    clip = big_golden("..", "clips/arm_wrestling_340x256.mp4")
    ours = tmp_path / "ours.safetensors"
    convert(upstream_file(tmp_path, about), ours, model=model, verify=True)
    predictor = Predictor(
        ours, topk=10_000, views=views, device="cpu", precision="fp32", pipeline=pipeline
    )
    (prediction,) = predictor.predict([clip])
    assert isinstance(prediction, VideoPrediction)
    assert [list(v.frame_indices) for v in prediction.views] == [
        view["frame_indices"] for view in about["views"]
    ]
    logits = prediction.view_logits["action"]
    order = head_order(name, logits.shape[1])
    tolerance = about["tolerance"]["same_pixels"]
    assert (logits - expected["logits"][:, order]).abs().max() < tolerance["logits"]
    scores = torch.zeros(len(order))
    for ranked in prediction.predictions:
        scores[ranked.index] = ranked.upstream_score
    wanted = expected["scores"][order]
    limit = tolerance["scores_relative_to_max_score"] * wanted.abs().max()
    assert (scores - wanted).abs().max() < limit
