"""Files of embeddings: NumPy or Parquet, or the folder of a bulk run; those of other tools too.

Every file has the columns of `vtcli.inference.embedding.COLUMNS`; only `embedding` is required of
one that another tool wrote. What the embeddings were made with is JSON under `settings`: an array
of the .npz, metadata of the Parquet schema, `_vt/run.json` of a folder.
Shape legend: N embeddings, D features.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError, InputError, UsageError
from vtcli.inference.embedding import COLUMNS, KIND, NUMPY_TYPES, ClipEmbedding, columns_for
from vtcli.inference.run_store import RunStore
from vtcli.runtime.extras import missing_package
from vtcli.runtime.files import atomic_write
from vtcli.runtime.rows import read_rows, write_parquet
from vtcli.runtime.words import valid_text

EXTENSIONS = (".parquet", ".npz")
SETTINGS = "settings"
LABEL_COLUMNS = ("label", "labels", "class")


@dataclass(frozen=True)
class Embeddings:
    """Embeddings [N,D], fp32 or fp16, and what is known of each: text and times in seconds, "" and
    NaN where a file does not say it. `labels`: the class of each, "" where it has none; empty where
    the file has no such column. `settings`: what they were made with, {} if that is not known.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    vectors: NDArray[np.floating[Any]]
    fingerprint: str = ""
    labels: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        """Features of an embedding."""
        return int(self.vectors.shape[1])


def check_embeddings_file(path: Path) -> None:
    """Raise `UsageError` for a name that no embeddings can be written to, or a missing library, and
    `DataError` for a folder that does not exist.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise UsageError(
            f"{path} is not a file of embeddings; use the extension {' or '.join(EXTENSIONS)}, or "
            "a folder with a slash at its end"
        )
    if path.suffix.lower() == ".parquet":
        _require_pyarrow()
    if not path.absolute().parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}; create it first")


def write_embeddings(
    clips: Sequence[ClipEmbedding], settings: Mapping[str, Any], path: Path
) -> None:
    """Write all embeddings to one file; raises `DataError` where it cannot be written."""
    check_embeddings_file(path)
    dtype = settings["dtype"]
    fingerprint = settings["model_fingerprint"]
    with atomic_write(path, make_folder=False) as part:
        if path.suffix.lower() == ".parquet":
            rows = [
                {
                    "id": clip.id,
                    "path": clip.path,
                    "start": clip.start,
                    "end": clip.end,
                    "model_fingerprint": fingerprint,
                    "embedding": clip.values,
                }
                for clip in clips
            ]
            write_parquet(rows, part, columns_for(dtype), {SETTINGS: json.dumps(settings)})
            return
        shape = (len(clips), len(clips[0].values) if clips else 0)
        vectors_ND = np.empty(shape, NUMPY_TYPES[dtype])
        for row_D, clip in zip(vectors_ND, clips, strict=True):
            row_D[:] = clip.values
        arrays: dict[str, Any] = {
            "id": _texts([clip.id for clip in clips]),
            "path": _texts([clip.path for clip in clips]),
            "start": np.array([clip.start for clip in clips], np.float64),
            "end": np.array([clip.end for clip in clips], np.float64),
            "model_fingerprint": np.array(fingerprint),
            "embedding": vectors_ND,
            SETTINGS: np.array(json.dumps(settings)),
        }
        with part.open("wb") as file:
            np.savez(file, **arrays)


def _texts(values: Sequence[str]) -> Any:
    return np.array([valid_text(value) for value in values], np.str_)


def is_embeddings(path: Path) -> bool:
    """Whether a path names embeddings, by its extension or as the folder of a run."""
    return path.suffix.lower() in EXTENSIONS or (path / "_vt" / "run.json").is_file()


def read_embeddings(path: Path) -> Embeddings:
    """The embeddings of a file or of a folder that `vt embed` fills.

    Raises `InputError` where there is none, `UsageError` for another kind of file, `DataError` for
    one that is damaged, empty, has no column `embedding`, vectors of several widths or models, or
    numbers that are NaN or infinite.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}; make one with vt embed VIDEOS -o {path}")
    if path.is_dir():
        found = _read_run(path)
    elif path.suffix.lower() == ".npz":
        found = _read_npz(path)
    elif path.suffix.lower() == ".parquet":
        found = _read_parquet(path)
    else:
        raise UsageError(
            f"{path} is not a file of embeddings; name a .parquet or .npz file, or a folder of "
            "vt embed"
        )
    return _checked(found, path)


def _checked(found: Embeddings, path: Path) -> Embeddings:
    if not len(found):
        raise DataError(f"{path} has no embeddings; make them with vt embed VIDEOS -o {path}")
    if not np.issubdtype(found.vectors.dtype, np.floating):
        raise DataError(
            f"the embeddings of {path} are {found.vectors.dtype}, not floating-point numbers"
        )
    bad = ~np.isfinite(found.vectors).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"embedding {row} of {path} ({found.ids[row]}) is NaN or infinite; make the file again "
            "with vt embed"
        )
    return found


def _columns(
    path: Path, columns: Mapping[str, Sequence[Any]], vectors_ND: Any, settings: Mapping[str, Any]
) -> Embeddings:
    """Embeddings from the columns that a file has."""
    count = len(vectors_ND)
    known = {name: values for name, values in columns.items() if len(values) == count}

    def texts(name: str) -> tuple[str, ...]:
        return tuple("" if v is None else str(v) for v in known.get(name, [""] * count))

    def numbers(name: str) -> NDArray[np.float64]:
        values = known.get(name, [None] * count)
        return np.array([np.nan if v is None else v for v in values], np.float64)

    fingerprints = {str(value or "") for value in columns.get("model_fingerprint", ())}
    if len(fingerprints) > 1:
        raise DataError(
            f"{path} has embeddings of {len(fingerprints)} models, which cannot be compared; make "
            "one file per model"
        )
    paths = texts("path") if "path" in known else texts("id")
    labels = next((texts(name) for name in LABEL_COLUMNS if name in known), ())
    ids = texts("id") if "id" in known else paths
    fingerprint = next(iter(fingerprints), "")
    start_N, end_N = numbers("start"), numbers("end")
    return Embeddings(ids, paths, start_N, end_N, vectors_ND, fingerprint, labels, settings)


def _read_npz(path: Path) -> Embeddings:
    try:
        with np.load(path, allow_pickle=False) as file:
            if "embedding" not in file.files:
                raise DataError(_no_column(path, file.files))
            vectors_ND = file["embedding"]
            names = [n for n in (*COLUMNS, *LABEL_COLUMNS) if n in file.files and n != "embedding"]
            columns = {name: np.atleast_1d(file[name]).tolist() for name in names}
            settings = json.loads(str(file[SETTINGS])) if SETTINGS in file.files else {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as NumPy arrays: {error}") from error
    if vectors_ND.ndim != 2:
        raise DataError(
            f"the embeddings of {path} have the shape {list(vectors_ND.shape)}, not [rows,features]"
        )
    return _columns(path, columns, vectors_ND, settings)


def _read_parquet(path: Path) -> Embeddings:
    _require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    if "embedding" not in table.column_names:
        raise DataError(_no_column(path, table.column_names))
    names = [n for n in (*COLUMNS, *LABEL_COLUMNS) if n in table.column_names and n != "embedding"]
    columns = {name: table[name].to_pylist() for name in names}
    text = (table.schema.metadata or {}).get(SETTINGS.encode(), b"{}")
    return _columns(path, columns, _matrix(path, table["embedding"]), json.loads(text))


def _matrix(path: Path, column: Any) -> NDArray[Any]:
    """A column of lists as an array [N,D], without a Python object per number."""
    import pyarrow as pa

    rows = column.combine_chunks()
    is_list = pa.types.is_list(rows.type) or pa.types.is_large_list(rows.type)
    if not (is_list or pa.types.is_fixed_size_list(rows.type)):
        raise DataError(f"the column embedding of {path} has {rows.type}, not lists of numbers")
    count = len(rows)
    widths = set(rows.value_lengths().unique().to_pylist()) if is_list else {rows.type.list_size}
    if rows.null_count or None in widths or len(widths) > 1:
        raise DataError(
            f"the embeddings of {path} are missing in some rows or have several widths; make the "
            "file again with vt embed"
        )
    values = rows.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(count, -1) if count else np.empty((0, 0), np.float32)


def _read_run(folder: Path) -> Embeddings:
    """All complete parts of a bulk run; videos that failed have no embedding."""
    store = RunStore(folder, "")
    settings = store.read_settings() if store.exists() else {}
    if settings.get("kind") != KIND:
        raise DataError(
            f"{folder} is not a folder of embeddings; make one with vt embed VIDEOS -o embeddings/"
        )
    store.extension = settings["row_format"]
    dtype = NUMPY_TYPES[settings["dtype"]]
    rows = [row for row in _rows_of(store) if not row.get("reason")]
    vectors_ND = np.array([row["embedding"] for row in rows], dtype).reshape(len(rows), -1)
    columns = {name: [row[name] for row in rows] for name in COLUMNS if name != "embedding"}
    return _columns(folder, columns, vectors_ND, settings)


def _rows_of(store: RunStore) -> Iterator[dict[str, Any]]:
    numbers = store.part_numbers()
    missing = [number for number in numbers if not store.is_done(number)]
    if missing:
        raise DataError(
            f"{store.folder} is not complete: {len(missing)} of {len(numbers)} parts are missing; "
            "run the same vt embed command again"
        )
    for number in numbers:
        yield from read_rows(store.rows_file(number))


def _no_column(path: Path, names: Sequence[str]) -> str:
    return f"{path} has no column embedding; its columns are {', '.join(names) or 'none'}"


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UsageError(missing_package("Parquet files", "pyarrow", "parquet")) from error
