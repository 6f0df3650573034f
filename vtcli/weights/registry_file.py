"""Reading registry files: TOML tables merged by id, checked, and turned into registry entries.

Every error is one sentence that names the file, the entry and the key. Plain dataclasses and the
checks below are kept instead of pydantic, because its messages name neither the file nor the fix.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from vtcli.errors import DataError
from vtcli.labels import list_label_files, list_permutations, unverified_labels
from vtcli.labels.heads import HeadSpec
from vtcli.runtime.fields import field_types, is_of_type
from vtcli.video.pipeline import Pipeline
from vtcli.weights.names import is_file, is_id, is_repo, is_revision, is_safe_url
from vtcli.weights.registry_entry import Checkpoint, Source

T = TypeVar("T")
EXPECTED_VALUE: Mapping[Any, str] = {
    str: "text in quotes",
    bool: "true or false",
    int: "a whole number",
    int | None: "a whole number",
    float | None: "a number",
}
# Keys of a source that had another name up to version 0.1.
RENAMED_KEYS = {
    "trust": "serialization",
    "state": "link_status",
    "container": "wrapper_keys",
}


class MergedFiles:
    """The tables of several registry files, merged by id before they are checked."""

    def __init__(self) -> None:
        self.pipelines: dict[str, Pipeline] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        self.file_of: dict[str, str] = {}
        self.model_defaults: dict[str, str] = {}
        self.dataset_defaults: dict[str, tuple[str, ...]] = {}

    def add(self, path: Path, hub_name: str = "") -> None:
        """Merge one file; one from the Hub may name no file of this machine.

        Raises `DataError` naming it, by `hub_name` if it has one.
        """
        place = hub_name or str(path)
        data = _parse(path, place)
        try:
            _refuse_unknown("the file", data, ("pipeline", "checkpoint", "default"))
            for name, table in _table(data, "pipeline").items():
                self._add_pipeline(name, table)
            for entry in _tables(data, "checkpoint"):
                if hub_name:
                    _refuse_local_files(entry)
                self._add_entry(entry, path, place)
            self._add_defaults(_table(data, "default"))
        except DataError as error:
            raise DataError(f"registry file {place}: {error}") from error

    def _add_pipeline(self, name: str, table: Any) -> None:
        if not isinstance(table, dict):
            raise DataError(f"pipeline '{name}' is {table!r}; write it as [pipeline.{name}]")
        try:
            self.pipelines[name] = Pipeline.from_dict(table)
        except DataError as error:
            raise DataError(f"pipeline '{name}': {error}") from error

    def _add_entry(self, entry: dict[str, Any], path: Path, place: str) -> None:
        if not isinstance(entry.get("id"), str):
            raise DataError('a [[checkpoint]] has no id; give it id = "<name>"')
        id_ = entry["id"]
        if not is_id(id_):
            raise DataError(
                f"the id {id_!r:.60} has characters other than letters, digits and ._+-"
            )
        try:
            _resolve_paths(entry, path.parent)
            sources = [_source(table) for table in _tables(entry, "source")]
        except DataError as error:
            raise DataError(f"entry '{id_}': {error}") from error
        old = self.entries.get(id_, {})
        self.entries[id_] = {**old, **entry, "source": [*sources, *old.get("source", [])]}
        self.file_of[id_] = place

    def _add_defaults(self, defaults: Mapping[str, Any]) -> None:
        _refuse_unknown("[default]", defaults, ("model", "dataset"))
        for alias, id_ in _table(defaults, "model").items():
            if not isinstance(id_, str):
                raise DataError(
                    f"[default.model] gives '{alias}' as {id_!r}; write one id in quotes"
                )
            self.model_defaults[alias] = id_
        for dataset, ids in _table(defaults, "dataset").items():
            if not (isinstance(ids, list) and all(isinstance(id_, str) for id_ in ids)):
                raise DataError(
                    f"[default.dataset] gives '{dataset}' as {ids!r}; write a list of ids"
                )
            self.dataset_defaults[dataset] = (*ids, *self.dataset_defaults.get(dataset, ()))

    def checkpoints(self) -> dict[str, Checkpoint]:
        """The checked entries by id. Raises `DataError` naming the file and the entry."""
        checkpoints = {id_: self._checkpoint(entry) for id_, entry in self.entries.items()}
        for id_ in chain(self.model_defaults.values(), *self.dataset_defaults.values()):
            if id_ not in checkpoints:
                raise DataError(
                    f"[default] in the registry names '{id_}', but there is no such entry; add it "
                    "or correct the name"
                )
        return checkpoints

    def _checkpoint(self, entry: dict[str, Any]) -> Checkpoint:
        where = f"registry entry '{entry['id']}' in {self.file_of[entry['id']]}"
        try:
            _refuse_unknown("the entry", entry, _entry_keys())
            values = dict(entry)
            values["pipeline"] = self._pipeline(values)
            values["heads"] = tuple(_head(table) for table in _head_tables(values))
            values["sources"] = tuple(values.pop("source"))
            return _read(Checkpoint, "the entry", values)
        except KeyError as error:
            raise DataError(f"{where} lacks the key {error}") from error
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def _pipeline(self, values: dict[str, Any]) -> Pipeline:
        """The named pipeline with the entry's own frames, views and `pipeline_changes`."""
        name, frames, views = values.pop("pipeline"), values["frames"], values["views"]
        if not isinstance(name, str) or name not in self.pipelines:
            known = ", ".join(self.pipelines)
            raise DataError(f"there is no pipeline {name!r}; known are {known}")
        protocol = re.fullmatch(r"(\d+)x(\d+)", str(views))
        if protocol is None:
            raise DataError(f"'views' is {views!r}; write clips x crops, such as \"4x3\"")
        changes = _table(values, "pipeline_changes")
        values.pop("pipeline_changes", None)
        own = {"frames": frames, "clips": int(protocol[1]), "crops": int(protocol[2])}
        _refuse_unknown(
            "'pipeline_changes'", changes, {f.name for f in fields(Pipeline)} - set(own)
        )
        return Pipeline.from_dict({**self.pipelines[name].to_dict(), **changes, **own})


# --- tables ---------------------------------------------------------------------------------------


def _parse(path: Path, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"registry file {place} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of the encoding or of TOML
        raise DataError(f"registry file {place} is not valid TOML in UTF-8: {error}") from error


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The table under a key; empty if there is none."""
    value = tables.get(name, {})
    if not isinstance(value, dict):
        raise DataError(f"'{name}' is {value!r}; write it as a table of key = value lines")
    return value


def _tables(tables: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of tables under a key; empty if there is none."""
    value = tables.get(name, [])
    if not (isinstance(value, list) and all(isinstance(table, dict) for table in value)):
        form = "[[checkpoint]]" if name == "checkpoint" else f"{name} = [{{ ... }}]"
        raise DataError(f"'{name}' is not a list of tables; write {form}")
    return value


def _refuse_local_files(entry: dict[str, Any]) -> None:
    """Raise `DataError` if an entry names a file of this machine."""
    for table in (entry, *_tables(entry, "head"), *_tables(entry, "source")):
        is_file = str(table.get("labels", "")).endswith(".txt")
        if is_file or table.get("kind") in ("local", "bundled"):
            raise DataError(
                f"entry {entry.get('id')!r} names a file of this machine, which a registry of the "
                "Hub may not; use sources of kind hub or https"
            )


def _resolve_paths(entry: dict[str, Any], folder: Path) -> None:
    """Resolve paths in an entry (local sources, label files) from the registry file's folder."""
    for table in (entry, *_tables(entry, "head"), *_tables(entry, "source")):
        if str(table.get("labels", "")).endswith(".txt"):
            table["labels"] = str(folder / Path(table["labels"]).expanduser())
        if table.get("kind") == "local" and isinstance(table.get("file"), str) and table["file"]:
            table["file"] = str(folder / Path(table["file"]).expanduser())


def _head_tables(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The `head` tables of an entry; a single head may be written as plain keys of the entry."""
    single = {
        "name": "action",
        "size": values.pop("num_classes", None),
        "labels": values.pop("labels", ""),
        "confidence": values.pop("labels_confidence", ""),
    }
    tables: list[dict[str, Any]] = values.pop("head", [])
    if not tables and single["size"] is None:
        raise KeyError("num_classes")
    return tables or [single]


def _head(table: Mapping[str, Any]) -> HeadSpec:
    """A head with its class names; placeholders where no source states the class order."""
    types: dict[str, Any] = {"name": str, "size": int, "labels": str, "confidence": str}
    _refuse_unknown("a head", table, types)
    for key, hint in types.items():
        if key in table:
            _require_type("a head", key, table[key], hint)
        elif key in ("name", "size"):
            raise DataError(f"a head lacks the key '{key}'")
    label_list = table.get("labels", "")
    _require_labels(label_list)
    confidence = table.get("confidence", "")
    head = HeadSpec.from_list(table["name"], table["size"], label_list, confidence)
    return head if label_list else replace(head, labels=unverified_labels(head.size))


def _source(table: Mapping[str, Any]) -> Source:
    for key, new in RENAMED_KEYS.items():
        if key in table:
            raise DataError(f"the key '{key}' of a source is now called '{new}'; rename it")
    source = _read(Source, "a source", table)
    needs = {"hub": ("repo", "file"), "https": ("url",)}.get(source.kind, ("file",))
    for name in needs:
        if not getattr(source, name):
            raise DataError(f"a source of kind '{source.kind}' lacks the key '{name}'")
    _require_safe(source)
    _require_labels(source.labels)
    if source.permutation and source.permutation not in _permutations():
        known = ", ".join(_permutations())
        raise DataError(f"there is no class permutation '{source.permutation}'; known are {known}")
    return source


def _require_safe(source: Source) -> None:
    """Raise `DataError` for an address that leaves its repository, this package or https."""
    for key, form in (("sha256", "[0-9a-fA-F]{64}"), ("sha256_prefix", "[0-9a-fA-F]{8,64}")):
        value = getattr(source, key)
        if value and not re.fullmatch(form, value):
            raise DataError(f"'{key}' of a source is {value!r}; write hexadecimal digits")
    if source.kind == "hub":
        checks = [
            ("repo", is_repo(source.repo), "org/name"),
            ("file", is_file(source.file), "a file of the repository"),
            ("revision", not source.revision or is_revision(source.revision), "a commit or tag"),
        ]
    elif source.kind == "https":
        checks = [("url", is_safe_url(source.url), "an https address")]
    elif source.kind == "bundled":
        checks = [("file", "/" not in source.file and is_file(source.file), "a file's name alone")]
    else:
        return
    for key, is_right, form in checks:
        if not is_right:
            raise DataError(f"'{key}' of a source is {getattr(source, key)!r}; write {form}")


def _require_labels(name: str) -> None:
    if name.endswith(".txt"):
        if not Path(name).is_file():
            raise DataError(f"the labels file {name} does not exist; correct the path")
    elif name and name not in _label_lists():
        raise DataError(f"there is no class list '{name}'; known are {', '.join(_label_lists())}")


# --- keys and types -------------------------------------------------------------------------------


@cache
def _entry_keys() -> frozenset[str]:
    """The keys of an entry: a checkpoint's fields, heads and sources as the file spells them."""
    spelled = {"head", "source", "num_classes", "labels", "labels_confidence", "pipeline_changes"}
    return frozenset(set(field_types(Checkpoint)) - {"heads", "sources"} | spelled)


@cache
def _label_lists() -> tuple[str, ...]:
    return tuple(list_label_files())


@cache
def _permutations() -> tuple[str, ...]:
    return tuple(list_permutations())


def _read(kind: type[T], what: str, table: Mapping[str, Any]) -> T:
    """A dataclass from a table. Raises `DataError` about `what` for a wrong key or value."""
    hints: dict[str, Any] = field_types(kind)
    _refuse_unknown(what, table, hints)
    for f in fields(kind):  # type: ignore[arg-type]
        if f.name in table:
            _require_type(what, f.name, table[f.name], hints[f.name])
        elif f.default is MISSING and f.default_factory is MISSING:
            raise DataError(f"{what} lacks the key '{f.name}'")
    return kind(**table)


def _refuse_unknown(what: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = set(table) - set(known)
    if unknown:
        raise DataError(
            f"{what} has the unknown key '{min(unknown)}'; known are {', '.join(sorted(known))}"
        )


def _require_type(what: str, name: str, value: Any, hint: Any) -> None:
    """Refuse a value outside a field's Literal or of another type; integers pass for floats."""
    if is_of_type(value, hint):
        return
    if get_origin(hint) is Literal:
        raise DataError(
            f"'{name}' of {what} is {value!r:.80}; known are {', '.join(get_args(hint))}"
        )
    expected = EXPECTED_VALUE.get(hint, "a table")
    raise DataError(f"'{name}' of {what} is {value!r:.80}; write {expected}")
