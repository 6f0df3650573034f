"""Predict with a ViViT of the Hub as somebody else fine-tuned it: named by its repository.

    python examples/hub_repository.py ORG/REPO CLIP...

`vt predict CLIP -m ORG/REPO` is the same from the command line. Frames, heads, pixels and labels
are those of the repository's own files; the weights are converted once and kept in the cache.
"""

from __future__ import annotations

import sys

import vtcli


def main(repository: str, clips: list[str]) -> None:
    """Print where the facts come from, and the best class of each clip."""
    model = vtcli.load_model(repository)
    frames, classes = model.config.num_frames, len(model.labels)
    print(f"{repository}: {model.card.arch}, {frames} frames, {classes} classes")
    print(model.card.notes)
    for clip in clips:
        best = vtcli.predict(clip, model=model, topk=1)[0]
        print(f"{clip}: {best.label} {best.score:.1%}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
