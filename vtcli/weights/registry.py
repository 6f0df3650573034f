"""The registry: every checkpoint that is known, read from weights_registry.toml and users' files.

A row says what a checkpoint is, where it lies (an ordered list of sources, dead ones kept and
marked), how it is tested and what it scores. Everything that varies by checkpoint is data in a row;
this file only reads it. $VT_REGISTRY names further files of the same form (separated like $PATH):
their rows are added, and a row with a known id is merged into it, its sources in front.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtcli.errors import UsageError
from vtcli.video.pipeline import Pipeline

if TYPE_CHECKING:
    pass

import difflib
import fnmatch
import tomllib
from dataclasses import MISSING, fields
from functools import cache
from importlib.resources import files
from itertools import chain
from types import UnionType
from typing import TypeVar, get_args, get_origin, get_type_hints

from vtcli.errors import DataError, UnknownModelError
from vtcli.labels import list_label_files, load_labels, unverified_labels

T = TypeVar("T")
REGISTRY_NAME = "weights_registry.toml"
VALUE_WORDS: Mapping[Any, str] = {
    str: "text in quotes",
    bool: "true or false",
    int: "a whole number",
    int | None: "a whole number",
    float | None: "a number",
}


@dataclass(frozen=True)
class Source:
    """One place where a checkpoint lies, in one upstream's own file format.

    `layout` names the key table (`official`, `mmaction2`, `torchvision`, `hf`, `scenic`, `vt`);
    `trust` says how the file is read, `container` under which key its tensors lie ("" for a flat
    file, "a.b" for a nested one); `labels` and `permutation` say in which class order its head
    stands (perm[our index] = its row); `state` is what is known of the link, and a dead one is
    never tried. A `bundled` file came with this package and is used as it lies.
    """

    kind: Literal["bundled", "hub", "https", "local"]
    layout: str
    trust: Literal["safetensors", "pickle", "msgpack"]
    state: Literal["alive", "likely", "unknown", "dead"] = "unknown"
    repo: str = ""
    file: str = ""
    revision: str = ""
    url: str = ""
    container: str = ""
    bytes: int | None = None
    sha256: str = ""
    sha256_prefix: str = ""
    sha256_source: str = ""
    labels: str = ""
    permutation: str = ""
    license: str = ""
    checked: str = ""
    notes: str = ""
    convertible: bool = True

    @property
    def address(self) -> str:
        """The source in one word for messages: `hf://org/repo/file@revision`, an URL or a path."""
        if self.kind == "hub":
            return f"hf://{self.repo}/{self.file}" + (
                f"@{self.revision[:12]}" if self.revision else ""
            )
        return self.url or self.file


@dataclass(frozen=True)
class Head:
    """One classifier output: `size` logits and their class list ("" where the order is unknown)."""

    name: str
    size: int
    labels: str = ""
    confidence: str = ""

    def class_names(self) -> tuple[str, ...]:
        """The names in index order, honest ones where the order is not known."""
        if not self.labels:
            return unverified_labels(self.size)
        names = load_labels(self.labels)
        if len(names) != self.size:
            raise DataError(
                f"class list '{self.labels}' has {len(names)} names, the head {self.size}"
            )
        return names


@dataclass(frozen=True)
class Checkpoint:
    """One id: one set of weights and the pipeline it is tested with.

    `config` overrides the model's published size where a checkpoint differs and holds what the
    weights do not show; `views` is the published protocol, clips x crops; `params` are millions and
    `gmacs` giga multiply-accumulates per view as published, with their source in `cost_source`.
    """

    id: str
    arch: str
    model: str
    dataset: str
    heads: tuple[Head, ...]
    frames: int
    resolution: int
    pipeline: Pipeline
    views: str
    config: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    pretrain: str = ""
    top1: float | None = None
    top5: float | None = None
    metric: str = "top-1"
    metric_source: str = ""
    params: float | None = None
    gmacs: float | None = None
    cost_source: str = ""
    cost_note: str = ""
    license: str = ""
    notes: str = ""

    @property
    def num_classes(self) -> int:
        """Rows of the classifier, all heads together."""
        return sum(head.size for head in self.heads)

    @property
    def available(self) -> bool:
        """Whether any source might still answer."""
        return any(s.state != "dead" and s.convertible for s in self.sources)


@dataclass(frozen=True)
class Registry:
    """All rows, the aliases and the pipelines, in the order of the files."""

    checkpoints: Mapping[str, Checkpoint]
    model_defaults: Mapping[str, str]
    dataset_defaults: Mapping[str, tuple[str, ...]]
    pipelines: Mapping[str, Pipeline]

    def find(self, name: str) -> Checkpoint:
        """The row for an id or alias.

        Raises `UnknownModelError` naming the nearest names.
        """
        row = self.checkpoints.get(self.model_defaults.get(name, name))
        if row is not None:
            return row
        known = [*self.model_defaults, *self.checkpoints]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `vt models list`"
        raise UnknownModelError(f"unknown model '{name}'; {hint}")

    def match(self, pattern: str) -> list[Checkpoint]:
        """All rows whose id or model fits a shell pattern, in registry order."""
        target = self.model_defaults.get(pattern, pattern)
        return [
            row
            for row in self.checkpoints.values()
            if fnmatch.fnmatchcase(row.id, target) or fnmatch.fnmatchcase(row.model, target)
        ]

    def default_for_dataset(self, dataset: str) -> Checkpoint:
        """The best checkpoint of a dataset whose source might still answer.

        Raises `UnknownModelError` where the registry marks none.
        """
        for checkpoint_id in self.dataset_defaults.get(dataset, ()):
            if self.checkpoints[checkpoint_id].available:
                return self.checkpoints[checkpoint_id]
        raise UnknownModelError(
            f"no checkpoint with a living source is marked for dataset '{dataset}'; "
            "name one with --model"
        )


def registry_path() -> Path:
    """Where the registry lies: inside the installed package, or at the top of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / REGISTRY_NAME, package.parent / REGISTRY_NAME):
        if candidate.is_file():
            return candidate
    raise DataError(f"{REGISTRY_NAME} is missing from this installation; install vtcli again")


def bundled_path(row: Checkpoint, last_resort: bool = False) -> Path | None:
    """The file of this package that holds a row's weights, in our format; None where they have to
    be fetched, because other sources come first. As a `last_resort` its place does not matter.
    """
    for source in row.sources if last_resort else row.sources[:1]:
        if source.kind == "bundled":
            return Path(__file__).resolve().parent / "bundled" / source.file
    return None


def load_registry(extra: Iterable[str | Path] | None = None) -> Registry:
    """Read the registry and the user's own files.

    `extra` names further files; None takes those of $VT_REGISTRY. Raises `DataError` naming file
    and row.
    """
    if extra is None:
        extra = [p for p in os.environ.get("VT_REGISTRY", "").split(os.pathsep) if p]
    return _load((registry_path(), *(Path(p).expanduser() for p in extra)))


@cache
def _load(paths: tuple[Path, ...]) -> Registry:
    merged = _Merged()
    for path in paths:
        merged.add(path)
    return merged.build()


class _Merged:
    """Rows of several files put together, by id, before they are checked."""

    def __init__(self) -> None:
        self.pipelines: dict[str, Pipeline] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.origin: dict[str, Path] = {}
        self.model_defaults: dict[str, str] = {}
        self.dataset_defaults: dict[str, tuple[str, ...]] = {}

    def add(self, path: Path) -> None:
        data = _parse(path)
        try:
            _refuse_unknown("the file", data, ("pipeline", "checkpoint", "default"))
            for name, table in _table(data, "pipeline").items():
                self._add_pipeline(name, table)
            for row in _tables(data, "checkpoint"):
                self._add_row(row, path)
            self._add_defaults(_table(data, "default"))
        except DataError as error:
            raise DataError(f"registry file {path}: {error}") from error

    def _add_pipeline(self, name: str, table: Any) -> None:
        if not isinstance(table, dict):
            raise DataError(f"pipeline '{name}' is {table!r}; write it as [pipeline.{name}]")
        try:
            self.pipelines[name] = Pipeline.from_dict(table)
        except DataError as error:
            raise DataError(f"pipeline '{name}': {error}") from error

    def _add_row(self, row: dict[str, Any], path: Path) -> None:
        if not isinstance(row.get("id"), str):
            raise DataError('a [[checkpoint]] stands without an id; give it id = "<name>"')
        id_ = row["id"]
        try:
            _resolve_paths(row, path.parent)
            sources = [_source(table) for table in _tables(row, "source")]
        except DataError as error:
            raise DataError(f"row '{id_}': {error}") from error
        old = self.rows.get(id_, {})
        self.rows[id_] = {**old, **row, "source": [*sources, *old.get("source", [])]}
        self.origin[id_] = path

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

    def build(self) -> Registry:
        checkpoints = {id_: self._checkpoint(row) for id_, row in self.rows.items()}
        named = chain(self.model_defaults.values(), *self.dataset_defaults.values())
        for checkpoint_id in named:
            if checkpoint_id not in checkpoints:
                raise DataError(
                    f"[default] in the registry names '{checkpoint_id}', which is no row"
                )
        return Registry(checkpoints, self.model_defaults, self.dataset_defaults, self.pipelines)

    def _checkpoint(self, row: dict[str, Any]) -> Checkpoint:
        where = f"registry row '{row['id']}' in {self.origin[row['id']]}"
        try:
            _refuse_unknown("the row", row, _row_keys())
            values = dict(row)
            values["pipeline"] = self._row_pipeline(values)
            values["heads"] = tuple(_head(table) for table in _head_tables(values))
            values["sources"] = tuple(values.pop("source"))
            return _read(Checkpoint, "the row", values)
        except KeyError as error:
            raise DataError(f"{where} lacks the key {error}") from error
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def _row_pipeline(self, values: dict[str, Any]) -> Pipeline:
        """The named pipeline with the row's own frame count, protocol and `pipeline_changes`."""
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


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"registry file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of the encoding or of TOML
        raise DataError(f"registry file {path} is not valid TOML in UTF-8: {error}") from error


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The table under a key, an empty one where it is absent."""
    value = tables.get(name, {})
    if not isinstance(value, dict):
        raise DataError(f"'{name}' is {value!r}; write it as a table of key = value lines")
    return value


def _tables(tables: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of tables under a key, an empty one where it is absent."""
    value = tables.get(name, [])
    if not (isinstance(value, list) and all(isinstance(table, dict) for table in value)):
        form = "[[checkpoint]]" if name == "checkpoint" else f"{name} = [{{ ... }}]"
        raise DataError(f"'{name}' is not a list of tables; write {form}")
    return value


def _resolve_paths(row: dict[str, Any], folder: Path) -> None:
    """Files that a row names (local sources, label files) lie beside the registry file itself."""
    for table in (row, *_tables(row, "head"), *_tables(row, "source")):
        if str(table.get("labels", "")).endswith(".txt"):
            table["labels"] = str(folder / Path(table["labels"]).expanduser())
        if table.get("kind") == "local" and isinstance(table.get("file"), str) and table["file"]:
            table["file"] = str(folder / Path(table["file"]).expanduser())


def _head_tables(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The `head` tables of a row; one classifier: num_classes, labels, labels_confidence."""
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


def _head(table: Mapping[str, Any]) -> Head:
    head = _read(Head, "a head", table)
    _require_labels(head.labels)
    return head


def _source(table: Mapping[str, Any]) -> Source:
    source = _read(Source, "a source", table)
    needs = {"hub": ("repo", "file"), "https": ("url",)}.get(source.kind, ("file",))
    for name in needs:
        if not getattr(source, name):
            raise DataError(f"a source of kind '{source.kind}' lacks the key '{name}'")
    _require_labels(source.labels)
    if source.permutation and source.permutation not in _permutations():
        known = ", ".join(_permutations())
        raise DataError(f"there is no class permutation '{source.permutation}'; known are {known}")
    return source


def _require_labels(name: str) -> None:
    if name.endswith(".txt"):
        if not Path(name).is_file():
            raise DataError(f"the labels file {name} does not exist")
    elif name and name not in _label_lists():
        raise DataError(f"there is no class list '{name}'; known are {', '.join(_label_lists())}")


@cache
def _row_keys() -> frozenset[str]:
    """What a row may say: a checkpoint's fields, with heads and sources in the file's own words."""
    written = {"head", "source", "num_classes", "labels", "labels_confidence", "pipeline_changes"}
    return frozenset(set(_hints(Checkpoint)) - {"heads", "sources"} | written)


@cache
def _label_lists() -> tuple[str, ...]:
    return tuple(list_label_files())


@cache
def _permutations() -> tuple[str, ...]:
    names = (entry.name for entry in (files("vtcli.labels") / "perm").iterdir())
    return tuple(sorted(n.removesuffix(".json") for n in names if n.endswith(".json")))


def _read(kind: type[T], what: str, table: Mapping[str, Any]) -> T:
    """A dataclass from a table; a key or value that does not fit is a `DataError` about `what`."""
    hints: dict[str, Any] = _hints(kind)  # type: ignore[arg-type]
    _refuse_unknown(what, table, hints)
    for f in fields(kind):  # type: ignore[arg-type]
        if f.name in table:
            _require_type(what, f.name, table[f.name], hints[f.name])
        elif f.default is MISSING and f.default_factory is MISSING:
            raise DataError(f"{what} lacks the key '{f.name}'")
    return kind(**table)


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _refuse_unknown(what: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = set(table) - set(known)
    if unknown:
        raise DataError(
            f"{what} has the unknown key '{min(unknown)}'; known are {', '.join(sorted(known))}"
        )


def _require_type(what: str, name: str, value: Any, hint: Any) -> None:
    """Refuse a value outside a field's Literal or of another type; integers pass for floats."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            known = ", ".join(get_args(hint))
            raise DataError(f"'{name}' of {what} is {value!r}; known are {known}")
        return
    allowed = hint if isinstance(hint, UnionType) else get_origin(hint) or hint
    number = isinstance(value, int) and isinstance(float(value), allowed)
    if not (number or isinstance(value, allowed)):
        wanted = VALUE_WORDS.get(hint, "a table")
        raise DataError(f"'{name}' of {what} is {value!r}; write {wanted}")


def named_pipeline(name: str | None, own: Pipeline) -> Pipeline:
    """A pipeline of the registry for a checkpoint's frames and size, or the checkpoint's own."""
    if name is None:
        return own
    pipelines = load_registry().pipelines
    if name not in pipelines:
        raise UsageError(f"there is no pipeline '{name}'; known are {', '.join(pipelines)}")
    chosen = pipelines[name]
    short_side = round(chosen.short_side * own.crop_size / chosen.crop_size)
    return replace(chosen, frames=own.frames, crop_size=own.crop_size, short_side=short_side)
