"""Rows of predictions as files: JSON lines or Parquet, with the same columns in both.

Columns are described once; a row is a dictionary that has some of them. Parquet needs the extra
`parquet` (pyarrow).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vtcli.errors import UsageError
from vtcli.runtime.words import valid_text

if TYPE_CHECKING:
    import pyarrow

Row: TypeAlias = Mapping[str, Any]
RowFormat: TypeAlias = Literal["parquet", "jsonl"]

COLUMNS: Mapping[str, str] = {
    "path": "string",
    "size": "int64",
    "mtime": "int64",
    "etag": "string",
    "model_fingerprint": "string",
    "protocol": "string",
    "start": "float64",
    "end": "float64",
    "indices": "list<int32>",
    "labels": "list<string>",
    "scores": "list<float32>",
    "classes": "list<string>",
    "heads": "string",
    "logits": "list<float16>",
    "embedding": "list<float32>",
    "frames": "int64",
    "bytes_read": "int64",
    "views": "int32",
    "warnings": "list<string>",
    "reason": "string",
    "error": "string",
    "seconds": "float32",
}
"""Name and Arrow type. `size` is in bytes, `mtime` in nanoseconds since 1970, `start`, `end` and
`seconds` in seconds; `etag` and `bytes_read` (over the network) are those of a URL; `views` is how
many were scored; `heads` is JSON where a model has several classifiers, `classes` the labels above
the threshold of one whose classes do not exclude each other."""

EXTENSIONS: Mapping[RowFormat, str] = {"parquet": "parquet", "jsonl": "jsonl"}


def writer_of(
    format: RowFormat, columns: Mapping[str, str] = COLUMNS
) -> Callable[[Sequence[Row], Path], None]:
    """The function that writes rows to a new file.

    Raises `UsageError` naming the extra where a library is missing.
    """
    if format == "jsonl":
        return write_jsonl
    _pyarrow()
    return partial(write_parquet, columns=columns)


def write_jsonl(rows: Sequence[Row], path: Path) -> None:
    """One JSON object a line, in ASCII: names that are not UTF-8 keep their surrogate escapes."""
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(json.dumps(dict(row)) + "\n" for row in rows)


def write_parquet(
    rows: Sequence[Row],
    path: Path,
    columns: Mapping[str, str] = COLUMNS,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """All columns, absent values as nulls; `metadata` becomes that of the schema."""
    pa = _pyarrow()
    import pyarrow.parquet as pq

    fields = [pa.field(name, _arrow_type(pa, kind)) for name, kind in columns.items()]
    arrays = [
        pa.array([_plain(row.get(f.name), f.type, pa) for row in rows], type=f.type) for f in fields
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata)), path)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that one of these functions wrote, in order."""
    if path.suffix == ".jsonl":
        with path.open(encoding="ascii") as lines:
            yield from map(json.loads, lines)
        return
    _pyarrow()
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _arrow_type(pa: Any, kind: str) -> pyarrow.DataType:
    inner = kind.removeprefix("list<").removesuffix(">")
    scalar = getattr(pa, inner)()
    return pa.list_(scalar) if inner != kind else scalar


def _plain(value: Any, kind: pyarrow.DataType, pa: Any) -> Any:
    """A value that Arrow takes: text without lone surrogates, half floats as NumPy's."""
    if isinstance(value, str):
        return valid_text(value)
    if value is not None and kind == pa.list_(pa.float16()):
        import numpy as np

        return np.asarray(value, np.float16)
    return value


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow: pip install 'vtcli[parquet]', or take --format jsonl"
        ) from error
    return pyarrow
