"""Whether a folder holds the bulk run that was asked for, and in which option it differs if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtcli.errors import DataError

AUTOMATIC = ("precision", "batch_size", "compile", "row_format")
"""Settings that whoever does not state them takes from the run."""

_OPTIONS = {
    "model": "--model",
    "label_set": "--label-set",
    "decoder": "--decoder",
    "topk": "--topk",
    "precision": "--precision",
    "batch_size": "--batch-size",
    "compile": "--compile",
    "keep_logits": "--keep-logits",
    "row_format": "--format",
}


def refuse_other_run(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], automatic: Sequence[str] = ()
) -> None:
    """Raise `DataError` naming the first setting in which the run in a folder differs.

    The `automatic` settings, and those of `AUTOMATIC` that are None in `new`, may differ.
    """
    for name, value in new.items():
        taken = name in automatic or (value is None and name in AUTOMATIC)
        # Runs of earlier versions do not state what they did not have.
        before = old.get(name, False if isinstance(value, bool) else None)
        if not taken and before != value:
            raise DataError(
                f"{folder} holds a run with {_difference(name, before, value)}name another folder "
                "with -o"
            )


def _difference(name: str, old: Any, new: Any) -> str:
    """What the run has, what was asked for, and the options that fit, up to the `or`."""
    if name == "model_fingerprint":
        return f"other weights of this model (SHA-256 {old:.12}, not {new:.12}); "
    if name == "pipeline":
        return "another preprocessing; give the --pipeline that it was begun with, or "
    if name == "protocol":
        options = "--views, --window, --stride and --strict"
        return f"the protocol '{old}', not '{new}'; give the {options} that it was begun with, or "
    option = _OPTIONS.get(name, name)
    if isinstance(new, bool):
        return f"no {option}; leave it out, or " if new else f"{option}; add it, or "
    if old is None:
        return f"no {option}, not with {option} {new}; leave it out, or "
    instead = "without it" if new is None else repr(new)
    return f"{option} {old!r}, not {instead}; give {option} {old}, or "
