"""`open_dataset`: from a dataset's name, a folder or an annotation file to samples.

A name of the catalog is looked up in the given root or in $VT_DATA/NAME; a folder or a file is
recognized by its content. Nothing is decoded here, and a missing video is not an error yet.
`DatasetReader` gives several splits of one dataset and reads each annotation file once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vtcli.data.annotations import FOLDER_FORMATS, LIST_FORMATS, check_format, read_annotation
from vtcli.data.annotations.base import Annotation, annotation_error, share_texts
from vtcli.data.annotations.detect import detect_file_format
from vtcli.data.annotations.folders import detect_folder_format, split_in
from vtcli.data.build import build_dataset, splits_of
from vtcli.data.catalog import (
    STANDARD_SPLITS,
    CatalogEntry,
    canonical_split,
    known_entry,
    load_catalog,
    nearest,
)
from vtcli.data.samples import Dataset
from vtcli.errors import DataError, InputError, UsageError
from vtcli.runtime.collection import without_collection
from vtcli.video.extensions import has_video_suffix

ANNOTATION_FOLDERS = (
    "annotations",
    "labels",
    "splits",
    "ucfTrainTestlist",
    "testTrainMulti_7030_splits",
    "epic-kitchens-100-annotations",
    "HACS_v1.1.1",
    "Moments_in_Time_Raw",
)
_EXTENSIONS = (".csv", ".txt", ".json", ".jsonl", ".ndjson", ".tsv", ".xml", ".parquet", ".tar")
_SHARD = re.compile(r"(.*?)[-_]?\d+(-of-\d+)?(-[0-9a-f]+)?\.(parquet|tar)")
_MANIFEST_NAMES = ("manifest.csv", "manifest.jsonl")
# What PySlowFast and its descendants call their lists, whatever the dataset.
_LIST_NAMES = {"train": ("train.csv",), "validation": ("val.csv",), "test": ("test.csv",)}


@dataclass(frozen=True)
class _Source:
    """The annotation of each split ("": of a split that is not known), and the folder that the
    videos' paths are relative to.
    """

    name: str
    root: Path
    files: Mapping[str, Path]
    default_split: str
    entry: CatalogEntry | None = None


class DatasetReader:
    """The splits of one dataset; each annotation file is read once, however many splits are opened.

    The arguments are those of `open_dataset`, and so are the errors raised; strict: refuse rows
    without a label and rows listed twice, else they are in `Dataset.problems`.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        root: str | Path | None = None,
        format: str | None = None,
        strict: bool = True,
    ) -> None:
        self._format, self._strict = format, strict
        self._annotations: dict[Path, Annotation] = {}
        self._texts: dict[Path, str] = {}  # of files whose format is known but not their rows
        with share_texts(self._texts):
            self._source = _find_source(name_or_path, root, format)

    def list_splits(self) -> tuple[str, ...]:
        """The splits that `open` can give; empty if the annotation names none."""
        source = self._source
        if not source.files:
            raise DataError(_missing_split(source, source.default_split))
        path = source.files.get("")
        return tuple(source.files) if path is None else splits_of(self._annotation(path))

    def open(self, split: str | None = None) -> Dataset:
        """The samples of one split; see `open_dataset` for the default."""
        with without_collection():
            return self._open(split)

    def _open(self, split: str | None) -> Dataset:
        source = self._source
        wanted = canonical_split(split) if split else source.default_split
        path = source.files.get(wanted) or source.files.get("")
        if path is None:
            raise DataError(_missing_split(source, wanted))
        known = "" if path == source.files.get("") else wanted
        chosen = wanted if known or split else None
        base = path if path.is_dir() else source.root
        annotation = self._annotation(path)
        dataset = build_dataset(annotation, source.name, base, chosen, source.entry, known)
        if self._strict and dataset.problems:
            row = dataset.problems[0]
            raise annotation_error(annotation.path, row.line, row.text, annotation.unit)
        return dataset

    def _annotation(self, path: Path) -> Annotation:
        if path not in self._annotations:
            official = self._source.entry.format if self._source.entry else ""
            with share_texts(self._texts), without_collection():
                format = self._format or _format_of(path, official)
                self._annotations[path] = read_annotation(path, format)
            self._texts.pop(path, None)
        return self._annotations[path]


def open_dataset(
    name_or_path: str | Path,
    root: str | Path | None = None,
    split: str | None = None,
    format: str | None = None,
) -> Dataset:
    """Read the labeled videos of one split.

    name_or_path: a name of the catalog, a folder, or an annotation file.
    root: for a name, the dataset's folder, by default $VT_DATA/NAME. For a folder or a file, the
        folder that relative paths start from: by default the folder itself, the file's own, or the
        one above for official files in a folder such as `annotations`.
    split: for a name, by default the split that published results are for; UCF101 and HMDB51 have
        `1`, `2`, `3` (the test videos of each official split) and `train1`, `train2`, `train3`. For
        a folder or a file, by default validation, else test.
    format: one of `vtcli.data.annotations.FORMATS`, by default detected.
    Raises `UsageError` for an unknown name or format, `InputError` for a path that does not exist,
    `DataError` for an annotation that does not fit, naming file and line.
    """
    return DatasetReader(name_or_path, root, format).open(split)


def list_splits(
    name_or_path: str | Path, root: str | Path | None = None, format: str | None = None
) -> tuple[str, ...]:
    """The splits that `open_dataset` can open; empty if the annotation names none.

    Raises as `open_dataset` does.
    """
    return DatasetReader(name_or_path, root, format).list_splits()


def _find_source(name_or_path: str | Path, root: str | Path | None, format: str | None) -> _Source:
    if format is not None:
        check_format(format)
    base = None if root is None else Path(root).expanduser()
    if base is not None:
        _require_openable(base)
        if not base.is_dir():
            raise InputError(f"the data folder {base} does not exist; check the path")
    entry = known_entry(name_or_path) if isinstance(name_or_path, str) else None
    if entry:
        return _named(entry, base or _default_root(entry))
    if not str(name_or_path):
        raise UsageError("the dataset's name is empty; give a name, a folder or an annotation")
    path = Path(name_or_path).expanduser()
    _require_openable(path)
    if path.is_dir():
        return _in_folder(path, base or path, format)
    if path.is_file():
        return _in_file(path, base, format)
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"{path} is not a file or a folder; check the path")
    raise UsageError(f"'{path}' is neither a known dataset nor a path; {nearest(str(path))}")


def _require_openable(path: Path) -> None:
    """Raise `InputError` for a path that the system refuses to look up."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{str(path)[:100]} cannot be opened ({why}); check the path") from error


def _default_root(entry: CatalogEntry) -> Path:
    """$VT_DATA/NAME.

    Raises `DataError` saying what is expected where if it does not exist.
    """
    data = os.environ.get("VT_DATA")
    root = Path(data, entry.name).expanduser() if data else None
    if root is None or not root.is_dir():
        reason = f"{root} does not exist" if root else "the variable VT_DATA is not set"
        raise DataError(
            f"dataset '{entry.name}' is looked up in $VT_DATA/{entry.name}, but {reason}; "
            f"give the folder with {_expected(entry)} with --data-root"
        )
    return root


def _expected(entry: CatalogEntry, split: str = "") -> str:
    """What the data folder must contain, in a few words."""
    names = " or ".join(entry.splits[split or entry.default_split].files[:2])
    return f"{names} and the videos (see `vt datasets show {entry.name}`)"


def _missing_split(source: _Source, split: str) -> str:
    if source.entry is None:
        return f"{source.root} has no split '{split}'; it has {', '.join(source.files)}"
    if split not in source.entry.splits:
        known = ", ".join(source.entry.splits)
        return f"dataset '{source.name}' has no split '{split}'; it has {known}"
    found = f"only {', '.join(source.files)}" if source.files else "no annotation of it"
    expected = _expected(source.entry, split)
    return (
        f"{source.root} has no split '{split}' of dataset '{source.name}', {found} was found; "
        f"it should contain {expected}"
    )


def _named(entry: CatalogEntry, root: Path) -> _Source:
    """A dataset of the catalog: its official files, else lists of training code, else a folder of
    class folders per split.
    """
    files = {}
    for split in entry.splits.values():
        found = next(_matches(root, (*split.files, *_LIST_NAMES.get(split.name, ()))), None)
        if found:
            files[split.name] = found
    if not files and len(entry.heads) == 1:
        files = _split_folders(root)
    return _Source(entry.name, root, files, entry.default_split, entry)


def _matches(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """The files in a data folder and its annotation folders that match, in pattern order."""
    for pattern in patterns:
        for folder in (root, *(root / name for name in ANNOTATION_FOLDERS)):
            yield from (p for p in sorted(folder.glob(pattern)) if p.is_file())


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of class folders of each split."""
    below = sorted(p for p in root.iterdir() if p.is_dir())
    named = {canonical_split(p.name): p for p in below}
    return {s: named[s] for s in STANDARD_SPLITS if s in named and detect_folder_format(named[s])}


def _in_folder(folder: Path, root: Path, format: str | None) -> _Source:
    """A folder: a dataset with the layout of the catalog, one or several annotation files, or
    class folders.
    """
    if format in FOLDER_FORMATS:
        return _Source(_name_of(folder), root, {"": folder}, "")
    entry = _recognized_in(folder)
    if entry and format in (None, entry.format):
        return _named(entry, root)
    export = folder / "labels.json"
    if export.is_file() and (folder / "data").is_dir() and _format_of(export, "x") == "fiftyone":
        return _Source(_name_of(folder), root, {"": export}, "")
    manifest = next(_matches(folder, _MANIFEST_NAMES), None)
    if manifest is None and detect_folder_format(folder) and format is None:
        return _Source(_name_of(folder), root, {"": folder}, "")
    files = {"": manifest} if manifest else _annotations_in(folder)
    default = next((s for s in ("validation", "test", "train", "") if s in files), "")
    return _Source(_name_of(folder), root, files, default)


def _name_of(path: Path) -> str:
    """The name of a dataset that was not recognized, which is never one of the catalog's."""
    absolute = Path(os.path.abspath(path))
    name = absolute.stem if absolute.is_file() else absolute.name
    return f"{name} (by path)" if known_entry(name) else name


def _annotations_in(folder: Path) -> dict[str, Path]:
    """The annotation files of a folder by split, or its only one.

    Raises `DataError` if there is none, or several that do not name splits.
    """
    places = (folder, *(folder / name for name in ANNOTATION_FOLDERS))
    places = (*places, folder / "data")
    files = _one_per_shards(next(filter(None, map(_possible_annotations, places)), []))
    by_split = {canonical_split(_stem(p)): p for p in files}
    worded = {split_in(_stem(p)): p for p in files}
    if len(worded) == len(files) and "" not in worded:
        by_split = worded  # train_list.csv, val_list.csv
    named = {split: by_split[split] for split in STANDARD_SPLITS if split in by_split}
    if named:
        return named
    if not files:
        raise DataError(
            f"{folder} contains no dataset; it needs one folder of videos per class, or an "
            "annotation such as manifest.csv with the header path,label"
        )
    if len(files) > 1:
        listed = ", ".join(p.name for p in files[:3])
        raise DataError(f"{folder} contains {len(files)} files ({listed} ...); name the annotation")
    return {"": files[0]}


def _stem(path: Path) -> str:
    """The name of a file without its extension and, for one of several shards, its number."""
    shard = _SHARD.fullmatch(path.name)
    return shard[1] if shard and shard[1] else path.stem


def _one_per_shards(files: list[Path]) -> list[Path]:
    """The files, but only the first of the shards that are read together."""
    first = {(_stem(p), p.suffix) if _SHARD.fullmatch(p.name) else p: p for p in reversed(files)}
    return sorted(first.values())


def _possible_annotations(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() in _EXTENSIONS and p.is_file()]


def _in_file(path: Path, root: Path | None, format: str | None) -> _Source:
    """One annotation file; with an official name and format it is that dataset's."""
    if has_video_suffix(path.name):
        raise DataError(
            f"{path} is a video, not a folder or an annotation file; classify single videos with "
            "`vt predict`"
        )
    format = format or _format_of(path)
    entry, split = _recognized(path, format)
    above = format not in LIST_FORMATS and path.parent.name in ANNOTATION_FOLDERS
    root = root or (path.parent.parent if above else path.parent)
    return _Source(entry.name if entry else _name_of(path), root, {split: path}, split, entry)


def _format_of(path: Path, default: str = "") -> str:
    if path.is_dir():
        return detect_folder_format(path) or "class-folders"
    return detect_file_format(path, default)


def _recognized(path: Path, format: str) -> tuple[CatalogEntry | None, str]:
    """The only dataset that has an annotation of this name and format, and its split; (None, "")
    if there are several, and split "" for a file that contains several splits.
    """
    found = [
        (entry, split.name)
        for entry in load_catalog().values()
        for split in entry.splits.values()
        if entry.format == format and any(path.match(pattern) for pattern in split.files)
    ]
    if len({entry.name for entry, _ in found}) != 1:
        return None, ""
    return found[0][0], found[0][1] if len(found) == 1 else ""


def _recognized_in(folder: Path) -> CatalogEntry | None:
    """The only dataset whose official annotation, by name and format, is in a folder."""
    tested = [entry.splits[entry.default_split].files for entry in load_catalog().values()]
    paths = {path for files in tested if (path := next(_matches(folder, files), None))}
    entries = [_recognized(path, _format_of(path, "unknown"))[0] for path in paths]
    found = [entry for entry in entries if entry]
    return found[0] if len(found) == 1 else None
