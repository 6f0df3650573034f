"""What a mistyped command may have meant, and the names that a shell completes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from vtcli.video.extensions import has_video_suffix

# Words that other tools use for what a command here does.
_OTHER_WORDS = {
    "train": "finetune",
    "fit": "finetune",
    "fine-tune": "finetune",
    "tune": "finetune",
    "test": "eval",
    "evaluate": "eval",
    "val": "eval",
    "validate": "eval",
    "embeddings": "embed",
    "features": "embed",
    "infer": "predict",
    "inference": "predict",
    "classify": "predict",
    "recognize": "predict",
    "detect": "predict",
    "run": "predict",
    "export": "convert",
    "bench": "profile",
    "benchmark": "profile",
    "list": "models list",
    "ls": "models list",
    "show": "models show",
    "download": "models fetch",
    "fetch": "models fetch",
    "pull": "models fetch",
    "push": "models push",
    "upload": "models push",
    "check": "datasets check",
    "dataset": "datasets",
    "model": "models",
    "help": "--help",
    "version": "--version",
    "info": "doctor",
    "env": "doctor",
}


def suggest_command(word: str, known: Sequence[str]) -> str:
    """The sentence for a command that does not exist: what was probably meant.

    `known` are the names of the commands. A file, a folder or a URL was meant as the argument of
    `vt predict`.
    """
    import difflib

    name = word.lower()
    if "://" in word or os.path.exists(word) or has_video_suffix(word):
        meant = f"did you mean `vt predict {word}`?"
    elif name in _OTHER_WORDS:
        meant = f"did you mean `vt {_OTHER_WORDS[name]}`?"
    elif near := difflib.get_close_matches(name, known, n=2, cutoff=0.6):
        meant = f"did you mean {' or '.join(f'`vt {one}`' for one in near)}?"
    else:
        meant = "see `vt --help`"
    return f"there is no command '{word}'; {meant}"


def one_of(*values: str) -> Callable[[str], list[str]]:
    """The completion of an option that takes one of a few words."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def complete_pipeline(incomplete: str) -> list[str]:
    """Names of the registry's pipelines that begin as typed."""
    from vtcli.weights.registry import load_registry

    return [name for name in load_registry().pipelines if name.startswith(incomplete)]


# As in `vtcli.training.recipes`, which needs PyTorch: too slow for a shell that waits.
RECIPES = (
    *("paper", "small", "scratch"),
    *(
        f"{arch}{tail}"
        for arch in ("uniformerv2", "videoswin", "vivit", "xvit")
        for tail in ("", "-something")
    ),
    "nano",
)


def complete_annotations(incomplete: str) -> list[str]:
    """Names of annotation formats that begin as typed."""
    from vtcli.data.annotations import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Aliases and ids of the registry that begin as typed."""
    from vtcli.weights.registry import load_registry

    return [name for name in load_registry().names if name.startswith(incomplete)]


def complete_dataset(incomplete: str) -> list[str]:
    """Names of datasets that begin as typed."""
    from vtcli.data.catalog import load_catalog

    return [name for name in load_catalog() if name.startswith(incomplete)]
