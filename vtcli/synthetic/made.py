"""Whether a folder already holds the synthetic dataset that is asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from vtcli.errors import DataError


def settings_file(name: str) -> str:
    """The file in the folder of a dataset of this name that says what it was made with."""
    return f".{name}.json"


def is_made(folder: Path, name: str, title: str, settings: Mapping[str, object]) -> bool:
    """Whether a folder holds the dataset that `make_dataset` writes with these settings, whole.

    Raises `DataError` if it holds one with other settings, or if clips of it are missing.
    """
    try:
        made = json.loads((folder / settings_file(name)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if made != settings:
        told = {**made.pop("clips", {}), **made}
        listed = ", ".join(f"{key} {value}" for key, value in told.items())
        raise DataError(f"{folder} holds another {title} ({listed}); name a new folder")
    for split in made["clips"]:
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if not (folder / row["path"]).is_file():
                    raise DataError(
                        f"{folder} lacks {row['path']} of its clips; delete the folder or name a "
                        "new one"
                    )
    return True
