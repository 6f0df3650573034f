"""Videos inside other files: Hugging Face's parquet (`video {bytes, path}`) and WebDataset tars.

The videos are copied once to the cache folder, `$VT_CACHE/datasets`, because a decoder needs files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.data.annotations.base import Annotation, AnnotationRow, Label, annotation_error
from vtcli.data.annotations.columns import ENDS, LABELS, STARTS, find_columns
from vtcli.errors import DataError
from vtcli.runtime.cache import cache_dir
from vtcli.runtime.extras import missing_package
from vtcli.runtime.files import atomic_write
from vtcli.runtime.words import plural
from vtcli.video.extensions import has_video_suffix

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_SHARD = re.compile(r"(.*?)(\d+)((?:-of-\d+)?(?:-[0-9a-f]+)?\.(?:parquet|tar))")
_LABEL_MEMBERS = (".cls", ".label", ".class", ".txt", ".json")
_BATCH_ROWS = 16


def _shards(path: Path) -> list[Path]:
    """A file and the others of its name with another number, in order."""
    named = _SHARD.fullmatch(path.name)
    if named is None:
        return [path]
    found = [(p, _SHARD.fullmatch(p.name)) for p in sorted(path.parent.iterdir())]
    same = [p for p, m in found if m and m[1] == named[1] and p.suffix == path.suffix]
    return same or [path]


def _folder_for(shards: Sequence[Path]) -> Path:
    """Where the videos of these files are copied to; another folder if one of them changes."""
    stamps = [(str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns) for p in shards]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    return cache_dir() / "datasets" / f"{shards[0].stem[:40]}-{digest}"


def _copied(folder: Path, name: str, data: bytes) -> str:
    """The path of a copy of a video; only written if it is not there whole."""
    parts = [re.sub(r"[^\w.#&()+-]", "_", part) for part in name.split("/")]
    target = folder.joinpath(*(part for part in parts if part.strip(".")))
    if not target.is_file() or target.stat().st_size != len(data):
        with atomic_write(target, len(data)) as part:
            part.write_bytes(data)
    return str(target)


def read_parquet(path: Path) -> Annotation:
    """One row per row of the file and of its other shards.

    Raises `DataError` if pyarrow is missing, or if no column holds videos or labels.
    """
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(missing_package("Parquet files", "pyarrow", "parquet")) from error
    shards = _shards(path)
    folder = _folder_for(shards)
    rows: list[AnnotationRow] = []
    classes: tuple[str, ...] = ()
    for shard in shards:
        try:
            with ParquetFile(shard) as file:
                names, found = _parquet_rows(path, file, folder, len(rows))
        except (ArrowInvalid, OSError) as error:
            raise DataError(
                f"{shard} cannot be read as parquet ({error}); copy it again"
            ) from error
        classes, rows = names or classes, rows + found
    if not rows:
        raise DataError(f"{path} is empty; give a file with at least one video")
    description = f"parquet with videos, {plural(len(shards), 'file')}"
    listed = {"action": classes} if classes else {}
    return Annotation(path, description, rows, classes=listed, index_base=0, unit="row")


def _parquet_rows(
    path: Path, file: ParquetFile, folder: Path, before: int
) -> tuple[tuple[str, ...], list[AnnotationRow]]:
    """The class names that the schema lists, and the rows of one file."""
    schema = file.schema_arrow
    video = next((f.name for f in schema if str(f.type).startswith("struct<bytes")), "")
    others = [name for name in schema.names if name != video]
    rows: list[AnnotationRow] = []
    classes: tuple[str, ...] = ()
    column = ""
    for batch in file.iter_batches(_BATCH_ROWS):
        for record in batch.to_pylist():
            number = before + len(rows) + 1
            if not column:
                plain = {name: record[name] for name in others}
                columns = find_columns(
                    path, [(1, plain | {"path": "x.mp4"})] if video else [(1, plain)]
                )
                video, column = video or columns.path, columns.label
                classes = _feature_names(schema.metadata or {}, column)
            listed = str(number) + ".mp4"
            value = record[video]
            if isinstance(value, dict):
                listed = str(value.get("path") or listed)
                if data := value.get("bytes"):
                    name = f"{number:06d}-{os.path.basename(listed)}"
                    listed = _copied(folder, name, data)
            else:
                listed = str(value)
            labels = _labels_of(path, number, record[column] if column else None)
            row = AnnotationRow((listed,), labels, number, columns={n: record[n] for n in others})
            rows.append(row._replace(start=_time(record, STARTS), end=_time(record, ENDS)))
    return classes, rows


def _labels_of(path: Path, number: int, value: Any) -> tuple[Label, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(label, int | str) for label in values):
        text = f"{value!r} is not a label; write a class name or number"
        raise annotation_error(path, number, text, "row")
    return tuple(values)


def _time(record: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """The first of the named columns as seconds; None if the record has none."""
    value = next((record[name] for name in names if record.get(name) is not None), None)
    return float(value) if isinstance(value, int | float) and value >= 0 else None


def _feature_names(metadata: dict[bytes, bytes], column: str) -> tuple[str, ...]:
    """The names of a ClassLabel column as `datasets` stores them in the schema."""
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        feature = feature.get("feature", feature)
        return tuple(feature["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def read_webdataset(path: Path) -> Annotation:
    """One row per sample of a tar file and of its other shards: the video, and its label from the
    member of the same name that ends in .cls, .label, .txt or .json.

    Raises `DataError` for a tar file that cannot be read, and for a sample without a label if
    others have one.
    """
    shards = _shards(path)
    folder = _folder_for(shards)
    found: dict[str, AnnotationRow] = {}
    for shard in shards:
        try:
            for key, video, label in _samples(shard, folder):
                row = AnnotationRow((video,), (), len(found) + 1, key)
                found[key] = row._replace(
                    labels=tuple(int(n) if n.isdecimal() else n for n in _names(label)),
                    start=_time(label, STARTS),
                    end=_time(label, ENDS),
                )
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{shard} cannot be read as tar ({error}); copy it again") from error
    rows = list(found.values())
    if not rows:
        raise DataError(f"{path} holds no videos; give a tar file with video members")
    numbers = all(isinstance(label, int) for row in rows for label in row.labels)
    if not numbers:
        rows = [row._replace(labels=tuple(map(str, row.labels))) for row in rows]
    unlabeled = next((row for row in rows if not row.labels), None)
    if unlabeled and any(row.labels for row in rows):
        raise annotation_error(path, unlabeled.line, f"'{unlabeled.id}' has no label", "sample")
    description = f"WebDataset, {plural(len(shards), 'tar file')}"
    return Annotation(path, description, rows, index_base=0, unit="sample")


def _samples(shard: Path, folder: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The key, the copied video, and the label with other values of each sample."""
    videos: dict[str, str] = {}
    labels: dict[str, dict[str, str]] = {}
    with tarfile.open(shard) as archive:
        for member in archive:
            if not member.isfile():
                continue
            head, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            key = f"{head}/{stem}" if head else stem
            file = archive.extractfile(member)
            if file is None or not stem:
                continue
            if has_video_suffix(name):
                videos[key] = _copied(folder, f"{key}.{extension}", file.read())
            elif f".{extension}" in _LABEL_MEMBERS:
                labels.setdefault(key, {})[f".{extension}"] = file.read().decode("utf-8", "replace")
    for key, video in videos.items():
        given = labels.get(key, {})
        name = next((e for e in _LABEL_MEMBERS if e in given), "")
        text = given.get(name, "")
        yield key, video, _json_label(text) if name == ".json" else {"label": text}


def _json_label(text: str) -> Mapping[str, Any]:
    """The label and times of a JSON member, which may be the label alone."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {"label": content}


def _names(label: Mapping[str, Any]) -> list[str]:
    value = next((label[name] for name in LABELS if name in label), "")
    values = value if isinstance(value, list) else [value]
    texts = [str(entry).strip() for entry in values if isinstance(entry, int | str)]
    return [text for text in texts if text]
