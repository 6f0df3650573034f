"""`open_dataset`: from a dataset's name, a folder or an annotation file to samples.

A name of the catalog is looked for in the given root or in $VT_DATA/NAME; a folder or a file is
recognized by what it holds. Nothing is decoded here, and a video that is missing is no error yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vtcli.data.annotations import FOLDER_FORMATS, LIST_FORMATS, check_format, read_annotation
from vtcli.data.annotations.detect import sniff_file
from vtcli.data.annotations.folders import sniff_folder
from vtcli.data.build import assemble, splits_of
from vtcli.data.catalog import (
    CatalogEntry,
    canonical_split,
    known_entry,
    load_catalog,
    nearest,
)
from vtcli.data.samples import Dataset
from vtcli.errors import DataError, InputError, UsageError
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
_SUFFIXES = (".csv", ".txt", ".json", ".jsonl", ".tsv")
_OWN_NAMES = ("manifest.csv", "manifest.jsonl")
_STANDARD_SPLITS = ("train", "validation", "test")
# What PySlowFast and its descendants call their lists, whatever the dataset.
_LIST_NAMES = {"train": ("train.csv",), "validation": ("val.csv",), "test": ("test.csv",)}


@dataclass(frozen=True)
class _Source:
    """What is to be read: the annotation of each split ("" where it is not known), and where its
    videos begin.
    """

    name: str
    root: Path
    files: Mapping[str, Path]
    default_split: str
    entry: CatalogEntry | None = None


def open_dataset(
    name_or_path: str | Path,
    root: str | Path | None = None,
    split: str | None = None,
    format: str | None = None,
) -> Dataset:
    """Read the labeled videos of one split.

    A name of the catalog lies in `root`, else in $VT_DATA/NAME, and `split` is by default the one
    its figures are given for; UCF101 and HMDB51 have `1`, `2`, `3` (what each division tests) and
    `train1` ... . For a folder or a file, `root` is where its relative paths begin (the folder, or
    the file's own, or the one above for official files in a folder such as `annotations`), and
    `split` is by default validation, else test. `format` names one of
    `vtcli.data.annotations.FORMATS` instead of finding it out.
    Raises `UsageError` for an unknown name or format, `InputError` for a path that does not exist,
    `DataError` for an annotation that does not fit, naming file and line.
    """
    source = _source(name_or_path, root, format)
    wanted = canonical_split(split) if split else source.default_split
    path = source.files.get(wanted) or source.files.get("")
    if path is None:
        raise DataError(_no_split(source, wanted))
    official = source.entry.format if source.entry else ""
    annotation = read_annotation(path, format or _format_of(path, official))
    known = "" if path == source.files.get("") else wanted
    chosen = wanted if known or split else None
    base = path if path.is_dir() else source.root
    return assemble(annotation, source.name, base, chosen, source.entry, known)


def list_splits(
    name_or_path: str | Path, root: str | Path | None = None, format: str | None = None
) -> tuple[str, ...]:
    """The splits that `open_dataset` can give here; empty where the annotation names none.

    Raises as `open_dataset` does.
    """
    source = _source(name_or_path, root, format)
    if not source.files:
        raise DataError(_no_split(source, source.default_split))
    path = source.files.get("")
    if path is None:
        return tuple(source.files)
    return splits_of(read_annotation(path, format or _format_of(path)))


def _source(name_or_path: str | Path, root: str | Path | None, format: str | None) -> _Source:
    if format is not None:
        check_format(format)
    base = None if root is None else Path(root).expanduser()
    if base is not None:
        _require_openable(base)
        if not base.is_dir():
            raise InputError(f"the data folder {base} is not there; check the path")
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
        raise InputError(f"{path} is no file and no folder; check the path")
    raise UsageError(f"'{path}' is neither a known dataset nor a path; {nearest(str(path))}")


def _require_openable(path: Path) -> None:
    """Raise `InputError` for a path that the system does not even look up."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{str(path)[:100]} cannot be opened ({why}); check the path") from error


def _default_root(entry: CatalogEntry) -> Path:
    """$VT_DATA/NAME.

    Raises `DataError` saying what is expected where, if it is not there.
    """
    data = os.environ.get("VT_DATA")
    root = Path(data, entry.name).expanduser() if data else None
    if root is None or not root.is_dir():
        place = f"{root} is not there" if root else "the variable VT_DATA is not set"
        raise DataError(
            f"dataset '{entry.name}' is looked for in $VT_DATA/{entry.name}, but {place}; "
            f"give the folder that holds {_expected(entry)} with --data-root"
        )
    return root


def _expected(entry: CatalogEntry, split: str = "") -> str:
    """What the data folder must hold, in a few words."""
    names = " or ".join(entry.splits[split or entry.default_split].files[:2])
    return f"{names} and the videos (see `vt datasets show {entry.name}`)"


def _no_split(source: _Source, split: str) -> str:
    if source.entry is None:
        return f"{source.root} has no split '{split}'; it has {', '.join(source.files)}"
    if split not in source.entry.splits:
        known = ", ".join(source.entry.splits)
        return f"dataset '{source.name}' has no split '{split}'; it has {known}"
    there = f"only {', '.join(source.files)} is there" if source.files else "nothing of it is there"
    expected = _expected(source.entry, split)
    return (
        f"{source.root} has no split '{split}' of dataset '{source.name}', {there}; "
        f"it should hold {expected}"
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
    """The files below a data folder that go by one of these names, in the order of the names."""
    for pattern in patterns:
        for folder in (root, *(root / name for name in ANNOTATION_FOLDERS)):
            yield from (p for p in sorted(folder.glob(pattern)) if p.is_file())


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of class folders of each split."""
    below = sorted(p for p in root.iterdir() if p.is_dir())
    named = {canonical_split(p.name): p for p in below}
    return {s: named[s] for s in _STANDARD_SPLITS if s in named and sniff_folder(named[s])}


def _in_folder(folder: Path, root: Path, format: str | None) -> _Source:
    """A folder: a dataset laid out as the catalog has it, one or several annotation files, or
    folders that tell the classes.
    """
    if format in FOLDER_FORMATS:
        return _Source(_name_of(folder), root, {"": folder}, "")
    entry = _recognized_in(folder)
    if entry and format in (None, entry.format):
        return _named(entry, root)
    own = next(_matches(folder, _OWN_NAMES), None)
    if own is None and sniff_folder(folder) and format is None:
        return _Source(_name_of(folder), root, {"": folder}, "")
    files = {"": own} if own else _annotations_in(folder)
    default = next((s for s in ("validation", "test", "train", "") if s in files), "")
    return _Source(_name_of(folder), root, files, default)


def _name_of(path: Path) -> str:
    """What a dataset is called that was not recognized: never as one of the catalog's is."""
    absolute = Path(os.path.abspath(path))
    name = absolute.stem if absolute.is_file() else absolute.name
    return f"{name} (by path)" if known_entry(name) else name


def _annotations_in(folder: Path) -> dict[str, Path]:
    """The annotation files of a folder by split, or its only one.

    Raises `DataError` where there is none, or no telling which one is meant.
    """
    places = (folder, *(folder / name for name in ANNOTATION_FOLDERS))
    files = next(filter(None, map(_possible_annotations, places)), [])
    by_split = {canonical_split(p.stem): p for p in files}
    named = {split: by_split[split] for split in _STANDARD_SPLITS if split in by_split}
    if named:
        return named
    if not files:
        raise DataError(
            f"{folder} holds no dataset; it needs one folder of videos per class, or an "
            "annotation such as manifest.csv with the header path,label"
        )
    if len(files) > 1:
        listed = ", ".join(p.name for p in files[:3])
        raise DataError(f"{folder} holds {len(files)} files ({listed} ...); name the annotation")
    return {"": files[0]}


def _possible_annotations(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() in _SUFFIXES and p.is_file()]


def _in_file(path: Path, root: Path | None, format: str | None) -> _Source:
    """One annotation file; with an official name and format it is taken for that dataset's."""
    if has_video_suffix(path.name):
        raise DataError(
            f"{path} is a video, where a folder or an annotation file is wanted; `vt predict` "
            "takes single videos"
        )
    format = format or _format_of(path)
    entry, split = _recognized(path, format)
    above = format not in LIST_FORMATS and path.parent.name in ANNOTATION_FOLDERS
    root = root or (path.parent.parent if above else path.parent)
    return _Source(entry.name if entry else _name_of(path), root, {split: path}, split, entry)


def _format_of(path: Path, otherwise: str = "") -> str:
    if path.is_dir():
        return sniff_folder(path) or "class-folders"
    return sniff_file(path, otherwise)


def _recognized(path: Path, format: str) -> tuple[CatalogEntry | None, str]:
    """The only dataset that has an annotation of this name and format, and the split it is of; a
    file that holds several splits, or is of several datasets, is of none.
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
    """The only dataset whose official annotation, by name and format, lies in a folder."""
    tested = [entry.splits[entry.default_split].files for entry in load_catalog().values()]
    paths = {path for files in tested if (path := next(_matches(folder, files), None))}
    entries = [_recognized(path, _format_of(path, "unknown"))[0] for path in paths]
    found = [entry for entry in entries if entry]
    return found[0] if len(found) == 1 else None
