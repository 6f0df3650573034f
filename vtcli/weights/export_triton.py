"""A model repository for NVIDIA Triton Inference Server: the ONNX graph, its configuration, class
names and a page that says how frames become its input.

    REPO/NAME/config.pbtxt   REPO/NAME/labels.txt   REPO/NAME/README.md   REPO/NAME/1/model.onnx

The configuration is the message `inference.ModelConfig` in protobuf's text format; its parameter
`vt` is the model card, which Triton's API gives to clients.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from vtcli.errors import UsageError
from vtcli.labels.heads import HeadSpec
from vtcli.models import get_architecture
from vtcli.models.build import clip_shape
from vtcli.runtime.files import atomic_write
from vtcli.video.sampling import SAMPLERS
from vtcli.weights.checkpoint import CARD_KEY, ModelCard, read_card
from vtcli.weights.export_graph import export_graph, output_names

MAX_BATCH_SIZE = 8
QUEUE_MICROSECONDS = 5000
CONFIG = "config.pbtxt"
_PIXELS = {
    "scaled": "(pixel / 255 - mean) / std",
    "raw": "(pixel - mean) / std",
    "raw_reciprocal": "(pixel - mean) * (1 / std) in float64",
    "signed": "(pixel * 2 / 255 - 1 - mean) / std",
}


def model_name(card: ModelCard, src: Path) -> str:
    """The folder of a model in its repository, which is also its name on the server."""
    return re.sub(r"[^\w.-]+", "_", card.id or src.name.removesuffix(".safetensors"))


def export_triton(
    src: Path,
    repository: Path,
    verify: bool = False,
    on_stage: Callable[[str], None] = lambda what: None,
) -> tuple[Path, float | None]:
    """Write one of our files into a model repository; returns the model's folder and, with
    `verify`, the largest logit difference.

    Raises `UsageError` where the repository has a model of this name, and what `export_graph` does.
    """
    card = read_card(src)
    name = model_name(card, src)
    folder = repository / name
    if os.path.lexists(folder):
        raise UsageError(
            f"{repository} has a model {name} already; remove {folder}, or name another "
            "repository with -o"
        )
    with atomic_write(folder) as part:
        part.mkdir()
        difference = export_graph(src, part / "1" / "model.onnx", "onnx", verify, on_stage)
        (part / CONFIG).write_text(config_text(card, name), encoding="utf-8")
        for head in card.heads:
            lines = (" ".join(label.split()) for label in head.labels)
            text = "".join(f"{line}\n" for line in lines)
            (part / _labels_file(card, head)).write_text(text, encoding="utf-8")
        (part / "README.md").write_text(readme_text(card, name), encoding="utf-8")
    return folder, difference


def config_text(card: ModelCard, name: str) -> str:
    """`inference.ModelConfig` in text format."""
    outputs = zip(card.heads, output_names(card), strict=True)
    blocks = [
        f"  {{ name: {_quoted(output)} data_type: TYPE_FP32 dims: [ {head.size} ]"
        + (f" label_filename: {_quoted(_labels_file(card, head))}" if head.labels else "")
        + " }"
        for head, output in outputs
    ]
    listed = ",\n".join(blocks)
    dims = ", ".join(map(str, _clip_shape(card)))
    return f"""name: {_quoted(name)}
backend: "onnxruntime"
max_batch_size: {MAX_BATCH_SIZE}
input [
  {{ name: "clip" data_type: TYPE_FP32 dims: [ {dims} ] }}
]
output [
{listed}
]
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}
parameters [
  {{ key: {_quoted(CARD_KEY)} value: {{ string_value: {_quoted(card.to_json())} }} }}
]
"""


def readme_text(card: ModelCard, name: str) -> str:
    """How frames become the input, and what the outputs are."""
    p = card.pipeline
    dims = ", ".join(map(str, _clip_shape(card)))
    rule = (SAMPLERS[p.sampling].__doc__ or "").partition("\n")[0]
    size = f"height and width {p.resize_to}" if p.resize_to else f"a short side of {p.short_side}"
    resize = "none" if p.keeps_size else f"`{p.resize}` to {size} pixels"
    outputs = "\n".join(
        f"- `{output}`: float32 [batch, {head.size}], logits; "
        + (f"line k of `{_labels_file(card, head)}` names class k" if head.labels else "no names")
        for head, output in zip(card.heads, output_names(card), strict=True)
    )
    scores = "Sigmoid" if p.multi_label else "Softmax"
    return f"""# {name}

Input `clip`: float32 [batch, {dims}]: channels, frames, height, width.

| step | rule |
| --- | --- |
| frames | `{p.sampling}`, L = {p.frames}, stride {p.stride}: {rule} |
| resize | {resize} |
| crop | the center, {p.crop_size}x{p.crop_size}, offset rounded by `{p.crop_offset}` |
| channels | {p.channel_order} |
| values | float32, {_PIXELS[p.normalize]}, mean {list(p.mean)}, std {list(p.std)} |

Outputs:

{outputs}

{scores} gives probabilities. The published protocol has {card.views} views (clips x crops),
fused by `{p.view_fusion}`. The parameter `{CARD_KEY}` of `{CONFIG}` has all of this as JSON.
`vtcli.preprocess(frames, model)` follows the rules; `examples/onnx_only.py` of vtcli does so with
NumPy alone.
"""


def _clip_shape(card: ModelCard) -> tuple[int, int, int, int]:
    return clip_shape(get_architecture(card.arch).read_config(card.config))


def _labels_file(card: ModelCard, head: HeadSpec) -> str:
    return "labels.txt" if len(card.heads) == 1 else f"labels_{head.name}.txt"


def _quoted(text: str) -> str:
    """A string of protobuf's text format, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)
