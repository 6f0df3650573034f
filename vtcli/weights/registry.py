"""The registry: every checkpoint that is known, read from weights_registry.toml and users' files.

A row says what a checkpoint is, where it lies (an ordered list of sources, dead ones kept and
marked), how it is tested and what it scores. Everything that varies by checkpoint is data in a row;
this file only reads it. $VT_REGISTRY names further files of the same form (separated like $PATH):
their rows are added, and a row with a known id is merged into it, its sources in front.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from vtcli.errors import DataError, UnknownModelError
from vtcli.labels import load_labels, unverified_labels
from vtcli.video.pipeline import Pipeline

T = TypeVar("T")
REGISTRY_NAME = "weights_registry.toml"


@dataclass(frozen=True)
class Source:
    """One place where a checkpoint lies, in one upstream's own file format.

    `layout` names the key table (`official`, `mmaction2`, `torchvision`, `hf`, `scenic`, `vt`);
    `trust` says how the file is read, `container` under which key its tensors lie ("" for a flat
    file, "a.b" for a nested one); `labels` and `permutation` say in which class order its head
    stands (perm[our index] = its row); `state` is what is known of the link, and a dead one is
    never tried.
    """

    kind: Literal["hub", "https", "local"]
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
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"registry file {path} cannot be read: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"registry file {path} is not valid TOML: {error}") from error
        unknown = set(data) - {"pipeline", "checkpoint", "default"}
        if unknown:
            raise DataError(f"registry file {path} has the unknown table '{sorted(unknown)[0]}'")
        for name, table in data.get("pipeline", {}).items():
            try:
                self.pipelines[name] = Pipeline.from_dict(table)
            except DataError as error:
                raise DataError(f"pipeline '{name}' in {path}: {error}") from error
        for row in data.get("checkpoint", []):
            _resolve_paths(row, path.parent)
            if "id" not in row:
                raise DataError(f"registry file {path} has a [[checkpoint]] without an id")
            old = self.rows.get(row["id"], {})
            sources = [*row.get("source", []), *old.get("source", [])]
            self.rows[row["id"]] = {**old, **row, "source": sources}
            self.origin[row["id"]] = path
        defaults = data.get("default", {})
        self.model_defaults.update(defaults.get("model", {}))
        for dataset, ids in defaults.get("dataset", {}).items():
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
            values = dict(row)
            pipeline = self.pipelines[values.pop("pipeline")]
            values["pipeline"] = _row_pipeline(pipeline, values)
            values["heads"] = tuple(_read(Head, table) for table in _head_tables(values))
            values["sources"] = tuple(_read(Source, table) for table in values.pop("source"))
            return _read(Checkpoint, values)
        except KeyError as error:
            raise DataError(f"{where} lacks or misnames {error}") from error
        except (DataError, TypeError, ValueError) as error:
            raise DataError(f"{where}: {error}") from error


def _resolve_paths(row: dict[str, Any], folder: Path) -> None:
    """Files that a row names (local sources, label files) lie beside the registry file itself."""
    for table in (row, *row.get("head", [])):
        if str(table.get("labels", "")).endswith(".txt"):
            table["labels"] = str(folder / Path(table["labels"]).expanduser())
    for source in row.get("source", []):
        if source.get("kind") == "local" and "file" in source:
            source["file"] = str(folder / Path(source["file"]).expanduser())


def _head_tables(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The `head` tables of a row; one classifier: num_classes, labels, labels_confidence."""
    single = {
        "name": "action",
        "size": values.pop("num_classes", 0),
        "labels": values.pop("labels", ""),
        "confidence": values.pop("labels_confidence", ""),
    }
    tables: list[dict[str, Any]] = values.pop("head", [])
    return tables or [single]


def _row_pipeline(pipeline: Pipeline, values: dict[str, Any]) -> Pipeline:
    """The named pipeline with the row's own frame count, protocol and `pipeline_changes`."""
    clips, crops = (int(n) for n in values["views"].split("x"))
    changes = values.pop("pipeline_changes", {})
    return replace(pipeline, frames=values["frames"], clips=clips, crops=crops, **changes)


def _read(kind: type[T], table: Mapping[str, Any]) -> T:
    """A dataclass from a table; an unknown key is a `DataError`, a missing one a `TypeError`."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = set(table) - known
    if unknown:
        raise DataError(f"unknown key '{sorted(unknown)[0]}' in {kind.__name__}")
    return kind(**table)
