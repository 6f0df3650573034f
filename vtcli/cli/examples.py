"""Two commands to type for each command, printed at the end of its help."""

from __future__ import annotations

from typing import Any

EXAMPLES = {
    "predict": (
        "vt predict clip.mp4 -m uniformerv2-b -k 3",
        "vt predict videos/ -o results.csv",
    ),
    "embed": (
        "vt embed videos/ -o index.parquet",
        "vt embed videos/ --window 2s -o run/",
    ),
    "search": (
        "vt search clip.mp4 --index index.parquet",
        "vt search clip.mp4 --index index.parquet -o sheet.html",
    ),
    "explain": (
        "vt explain clip.mp4 -o why.png",
        "vt explain clip.mp4 --class clapping -o why.html",
    ),
    "serve": (
        "vt serve -m uniformerv2-b",
        "VT_API_KEY=secret vt serve --host 0.0.0.0 --port 8080",
    ),
    "eval": (
        "vt eval --dataset videos/ -m uniformerv2-b --views 1x1",
        "vt eval --dataset ssv2 --data-root /data/ssv2",
    ),
    "eval rescore": (
        "vt eval rescore runs/RUN --views 1x3",
        "vt eval rescore runs/RUN --average logit",
    ),
    "eval export": (
        "vt eval export runs/RUN -o scores.npz",
        "vt eval export runs/RUN -o scores.parquet",
    ),
    "eval calibrate": (
        "vt eval calibrate runs/VALIDATION --views -o calibrated.safetensors",
        "vt eval calibrate runs/EVENTS -m mine.safetensors -o calibrated.safetensors",
    ),
    "eval compare": (
        "vt eval compare runs/A runs/B",
        "vt eval compare runs/A runs/B --format json",
    ),
    "review": (
        "vt review runs/RUN -o review.html",
        "vt review runs/RUN -o label-studio.json --most 50",
    ),
    "finetune": (
        "vt finetune --dataset videos/ -m uniformerv2-b -o runs/mine",
        "vt finetune --dataset videos/ -o runs/mine --trainable head --dry-run",
    ),
    "convert": (
        "vt convert k400.pth -m uniformerv2-b.k400-8f --verify",
        "vt convert mine.safetensors --to openvino -o mine_openvino/",
    ),
    "profile": (
        "vt profile -m uniformerv2-b -b 1 -b 8",
        "vt profile 'videoswin*' --plot cost.svg",
    ),
    "models list": (
        "vt models list --dataset k400 --available",
        "vt models list 'uniformerv2-b*'",
    ),
    "models show": (
        "vt models show uniformerv2-b",
        "vt models show runs/mine/best.safetensors",
    ),
    "models fetch": (
        "vt models fetch uniformerv2-b",
        "vt models fetch vivit-b xvit-b",
    ),
    "models push": (
        "vt models push runs/mine/best.safetensors my-org/mine",
        "vt models push vivit-b my-org/vivit-b --form transformers",
    ),
    "models mirror": (
        "vt models mirror my-org 'uniformerv2-b*'",
        "vt models mirror my-org --public",
    ),
    "datasets list": (
        "vt datasets list",
        "vt datasets list --format json",
    ),
    "datasets show": (
        "vt datasets show ssv2",
        "vt datasets show k400 --format json",
    ),
    "datasets check": (
        "vt datasets check videos/",
        "vt datasets check videos/ -o cleaned.csv",
    ),
    "datasets export": (
        "vt datasets export videos/ --to label-studio -o labels.json",
        "vt datasets export videos/ --to manifest -o list.jsonl",
    ),
    "datasets make": (
        "vt datasets make motion8 motion8/",
        "vt datasets make motion8b small/ --train 64 --val 16 --test 16",
    ),
    "demo": (
        "vt demo",
        "vt demo -o somewhere/ --seed 2",
    ),
    "doctor": (
        "vt doctor",
        "vt doctor --format json",
    ),
}


def add_examples(command: Any, name: str) -> Any:
    """The command, with its examples below its help and those of the commands below it."""
    if name in EXAMPLES:
        command.epilog = "\n\n".join(("Examples:", *EXAMPLES[name]))
    for below, one in getattr(command, "commands", {}).items():
        add_examples(one, f"{name} {below}")
    return command
