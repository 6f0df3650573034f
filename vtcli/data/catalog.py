"""The catalog of datasets that are known by name, read from catalog.toml in this folder.

Everything that varies by dataset is data in a row there; this file only reads it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from vtcli.errors import UsageError
from vtcli.labels.heads import HeadSpec

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Split:
    """One split of a dataset: its size according to `source`, its annotation files and folders.

    `files` are names or shell patterns, of which the first that exists is used; `folders`, below
    the data folder, are where this split's videos may be.
    """

    name: str
    files: tuple[str, ...]
    size: int | None = None
    source: str = ""
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class CatalogEntry:
    """One dataset, under its name in the checkpoint registry; see catalog.toml for the fields."""

    name: str
    title: str
    aliases: tuple[str, ...]
    annotations: str
    default_split: str
    heads: tuple[HeadSpec, ...]
    splits: Mapping[str, Split]
    layout: str
    format: str = ""
    folders: tuple[str, ...] = ()
    metric: str = "top-1"
    frame_rate: float | None = None
    frame_names: str = ""
    flip_sensitive: bool = False
    official_splits: int = 1
    license: str = ""
    notes: str = ""


@cache
def load_catalog() -> Mapping[str, CatalogEntry]:
    """All datasets by name, in the order of the file."""
    text = (files(__package__) / "catalog.toml").read_text(encoding="utf-8")
    entries = [_entry(table) for table in tomllib.loads(text)["dataset"]]
    return {entry.name: entry for entry in entries}


def _entry(table: dict[str, Any]) -> CatalogEntry:
    heads = tuple(
        HeadSpec.from_list(head["name"], head["size"], head.get("labels", ""))
        for head in table.pop("head")
    )
    splits = [Split(**_tuples(split)) for split in table.pop("split")]
    by_name = {split.name: split for split in splits}
    table["layout"] = table["layout"].strip()
    return CatalogEntry(heads=heads, splits=by_name, **_tuples(table))


def _tuples(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}


def known_entry(name: str) -> CatalogEntry | None:
    """The dataset of this name or alias in any spelling; None if there is none."""
    return _by_spelling().get(_spelling(name))


def find_entry(name: str) -> CatalogEntry:
    """The dataset of this name or alias, in any spelling.

    Raises `UsageError` naming similar names.
    """
    entry = known_entry(name)
    if entry is None:
        raise UsageError(f"unknown dataset '{name}'; {nearest(name)}")
    return entry


def nearest(name: str) -> str:
    """A hint for an unknown name: similar ones, or the command that lists all."""
    spellings = {_spelling(word): word for e in load_catalog().values() for word in _words(e)}
    near = difflib.get_close_matches(_spelling(name), spellings, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(spellings[word] for word in near)}?"
    return "see `vt datasets list`"


@cache
def _by_spelling() -> Mapping[str, CatalogEntry]:
    return {_spelling(word): e for e in load_catalog().values() for word in _words(e)}


def _words(entry: CatalogEntry) -> tuple[str, ...]:
    return (entry.name, *entry.aliases)


def _spelling(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.casefold())


STANDARD_SPLITS = ("train", "validation", "test")


@lru_cache(maxsize=1024)  # annotations of a million rows name a few splits
def canonical_split(word: str) -> str:
    """The one name of a split, whatever an annotation or a user calls it.

    `train`, `validation` and `test`; for datasets with several official splits, `1` is the test
    part of split 1 and `train1` its training part; any other word is returned as it is.
    """
    plain = word.strip().casefold()
    known = _SPLIT_WORDS.get(plain) or _SPLIT_WORDS.get(re.sub(r"[ _-]?(set|split)$", "", plain))
    if known:
        return known
    numbered = re.fullmatch(r"(train|test|split)?[ _-]*0*([1-9][0-9]*)", plain)
    if numbered:
        return ("train" if numbered[1] == "train" else "") + numbered[2]
    return word.strip()
