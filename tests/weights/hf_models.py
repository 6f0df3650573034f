"""Small networks of other libraries: ViViTs in transformers' form, with the logits it gives for
a video, and torchvision's Video Swin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtcli.inference.predictor import Predictor
from vtcli.video.decode import probe, read_frames

SMALL: dict[str, Any] = {
    "image_size": 32,
    "num_frames": 8,
    "tubelet_size": [2, 16, 16],
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}
LABELS = ("fall", "walk", "sit")
# Fine-tunes inherit the processor of the repository they start from, and with it a range.
PROCESSORS: dict[str, dict[str, Any]] = {
    "[-3,1]": {"rescale_factor": 1 / 127.5, "do_normalize": True},
    "[-2,0]": {"rescale_factor": 1 / 255, "image_mean": [0.0] * 3, "image_std": [0.5] * 3},
    "[-1,1]": {"rescale_factor": 1 / 127.5, "do_normalize": False},
}


def randomized(model: Any, seed: int = 0) -> Any:
    """The model with values that make every tensor matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def torchvision_swin(num_classes: int) -> Any:
    """A small Video Swin of torchvision."""
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    return randomized(
        SwinTransformer3d(
            patch_size=[2, 4, 4],
            embed_dim=24,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 3, 6],
            window_size=[8, 7, 7],
            num_classes=num_classes,
        )
    )


def make_model(folder: Path, *, headless: bool = False, **config: Any) -> Any:
    """A randomly initialized network, saved in `folder` as `save_pretrained` does."""
    from transformers import VivitConfig, VivitForVideoClassification, VivitModel

    names = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}
    made = VivitConfig(**{**SMALL, **names, **config})
    model = randomized((VivitModel if headless else VivitForVideoClassification)(made))
    model.save_pretrained(folder)
    return model


def make_processor(folder: Path, side: int = 32, **options: Any) -> Any:
    """An image processor for clips of `side` pixels, saved in `folder`."""
    from transformers import VivitImageProcessor

    sizes = {
        "size": {"shortest_edge": side + 8},
        "crop_size": {"height": side, "width": side},
    }
    processor = VivitImageProcessor(**{**sizes, **options})
    processor.save_pretrained(folder)
    return processor


def expected_logits(folder: Path, video: Path, gray: bool = False) -> Tensor:
    """What transformers computes in fp32 from the folder's files, with frames evenly sampled."""
    from transformers import VivitForVideoClassification, VivitImageProcessor

    model = VivitForVideoClassification.from_pretrained(folder, dtype=torch.float32).eval()
    last = probe(video).frames - 1
    indices = np.round(np.linspace(0, last, model.config.num_frames)).astype(int)
    clip = [gray_frame(f) if gray else f for f in read_frames(video, indices)]
    processor = VivitImageProcessor.from_pretrained(folder)
    options = {"input_data_format": "channels_last"} if gray else {}
    pixels = processor(clip, return_tensors="pt", **options)["pixel_values"].float()
    with torch.no_grad():
        logits: Tensor = model(pixels).logits[0]
    return logits


def gray_frame(frame: Any) -> Any:
    """A frame of one channel, as Pillow makes it."""
    from PIL import Image

    return np.asarray(Image.fromarray(frame).convert("L"))[..., None]


def our_logits(name: str, video: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Our logits of one center view, and the labels."""
    with Predictor(name, device="cpu", precision="fp32", workers=0, topk=1) as predictor:
        (outcome,) = predictor.predict([video])
        if outcome.failed:
            raise outcome.error
        return outcome.view_logits["action"][0], predictor.net.labels
