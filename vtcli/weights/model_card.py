"""README.md of a pushed repository: labels, pipeline, digests, license, how to use it.

The front matter follows the Hub's model card specification; the rest is what our card says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vtcli.weights.checkpoint import WEIGHTS_FILE

# License identifiers of the Hub; every other one is `other` there and spelled out in the text.
HUB_LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
# Longer lists of labels are folded.
MAX_OPEN_LABELS = 20
_RESIZE_NOTE = (
    "`preprocessor_config.json` has the values of this pipeline; frames are resized by `{resize}` "
    "with `{crop_offset}` crops here and by Pillow with `floor` crops in transformers, so that "
    "scores differ slightly."
)


@dataclass(frozen=True)
class Pushed:
    """Where a model is pushed to, in which form, and the sha256 of its weights ("": not known)."""

    repo: str
    form: str = "vt"
    sha256: str = ""


def model_card(card: Mapping[str, Any], pushed: Pushed) -> str:
    """The text of README.md: front matter, then a section for each group of facts the card has."""
    source = card.get("source") or {}
    scores = {
        "top1": "top-1 (%)",
        "top5": "top-5 (%)",
        "views": "clips x crops",
        "metric_source": "source",
    }
    origin = {"address": "file", "sha256": "sha256", "bytes": "bytes", "layout": "layout"}
    licenses = {"weights": card.get("license"), "source": source.get("license")}
    files = {WEIGHTS_FILE: pushed.sha256 and f"sha256 {pushed.sha256}"}
    sections = {
        "Use": _use(card, pushed),
        "Accuracy as published": _table(card, scores) if card.get("top1") is not None else [],
        "Pipeline": [*_table(card.get("pipeline") or {}), *_pipeline_note(card, pushed)],
        "Labels": [line for head in card.get("heads") or [] for line in _head(head)],
        "Files": _table(files),
        "Origin": _table(source, origin),
        "License": _table(licenses) or ["The license of the weights is not known."],
    }
    text = [f"# {card.get('id') or pushed.repo}", "", *_introduction(card)]
    for title, lines in sections.items():
        text += ["", f"## {title}", "", *lines] if lines else []
    return f"---\n{_front_matter(card, pushed)}\n---\n\n" + "\n".join(text) + "\n"


def _front_matter(card: Mapping[str, Any], pushed: Pushed) -> str:
    from huggingface_hub import ModelCardData

    license_name = str(card.get("license", "")).lower()
    data = ModelCardData(
        license=license_name if license_name in HUB_LICENSES else "other",
        library_name="vtcli" if pushed.form == "vt" else pushed.form,
        pipeline_tag="video-classification",
        datasets=[card["dataset"]] if card.get("dataset") else None,
        tags=[card["arch"]] if card.get("arch") else None,
    )
    return data.to_yaml().strip()


def _introduction(card: Mapping[str, Any]) -> list[str]:
    """Up to three lines that say what the model is."""
    lines = {
        "model": "Action recognition in video with {}, as one safetensors file.",
        "pretrain": "Pretrained on {}.",
        "notes": "{}",
    }
    return [line.format(card[key]) for key, line in lines.items() if card.get(key)]


def _use(card: Mapping[str, Any], pushed: Pushed) -> list[str]:
    command = f"vt predict clip.mp4 -m hf://{pushed.repo}"
    lines = ["```", "pip install vtcli", command, "```"]
    if pushed.form == "vt":
        return lines
    return [
        *lines,
        "",
        "In Python, with transformers:",
        "",
        "```python",
        "from transformers import VivitForVideoClassification, VivitImageProcessor",
        "",
        f'model = VivitForVideoClassification.from_pretrained("{pushed.repo}")',
        f'processor = VivitImageProcessor.from_pretrained("{pushed.repo}")',
        f"# frames: a list of {(card.get('pipeline') or {}).get('frames', '')} RGB images",
        'logits = model(**processor(frames, return_tensors="pt")).logits',
        "```",
    ]


def _pipeline_note(card: Mapping[str, Any], pushed: Pushed) -> list[str]:
    if pushed.form == "vt":
        return []
    from vtcli.video.pipeline import Pipeline
    from vtcli.weights.transformers_form import is_same_resize

    pipeline = Pipeline.from_dict(card["pipeline"])
    if is_same_resize(pipeline):
        return ["", "`preprocessor_config.json` prepares the same pixels."]
    note = _RESIZE_NOTE.format(resize=pipeline.resize, crop_offset=pipeline.crop_offset)
    return ["", note]


def _table(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[str]:
    """A Markdown table of the values that are set, under their `names`; no lines if none are."""
    names = names if names is not None else {key: key for key in values}
    rows = [
        f"| {name} | {values[key]} |"
        for key, name in names.items()
        if values.get(key) not in (None, "")
    ]
    return ["| | |", "|---|---|", *rows] if rows else []


def _head(head: Mapping[str, Any]) -> list[str]:
    """A classifier and its labels by index."""
    order = head.get("confidence") or "unverified"
    lines = [f"`{head.get('name')}`: {head.get('size')} classes, class order: {order}"]
    labels = [f"{index}. {_escaped(name)}" for index, name in enumerate(head.get("labels") or ())]
    if len(labels) > MAX_OPEN_LABELS:
        summary = f"<details><summary>{len(labels)} labels</summary>"
        labels = [summary, "", *labels, "", "</details>"]
    return [*lines, "", *labels, ""] if labels else [*lines, ""]


def _escaped(label: str) -> str:
    """A label as Markdown text, without markup."""
    text = "".join(f"\\{c}" if c in "\\`*_[]<>#|&" else c for c in label)
    return " ".join(text.split())
