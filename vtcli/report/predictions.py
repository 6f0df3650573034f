"""Writes predictions as a table, JSON, JSON lines or CSV.

A writer takes outcomes one at a time (`add`) and ends with `close`. An outcome is anything with
`path`, `failed` and `to_dict()`; the table of a prediction has `predictions`, the classes of the
first head with index, label, score and upstream_score, and `heads` if there are several.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from vtcli.errors import DataError
from vtcli.runtime.csv_cells import SafeDictWriter
from vtcli.runtime.files import atomic_write


class Outcome(Protocol):
    """A prediction or a failure, as far as a writer needs it."""

    @property
    def path(self) -> str: ...

    @property
    def failed(self) -> bool: ...

    def to_dict(self) -> dict[str, Any]: ...


class Writer(Protocol):
    """Writes outcomes one at a time."""

    def add(self, outcome: Outcome) -> None: ...

    def close(self) -> None: ...


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name only when it is complete.

    Raises `DataError` where it cannot be written.
    """
    if path is None:
        if sys.stdout is None:
            raise DataError("standard output is closed; write to a file with -o")
        yield sys.stdout
        sys.stdout.flush()
        return
    with (
        atomic_write(path) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


def make_writer(format: str, stream: TextIO, header: Mapping[str, Any]) -> Writer:
    """The writer for `table`, `json`, `jsonl` or `csv`."""
    if format == "json":
        return JsonWriter(stream, header)
    if format == "jsonl":
        return JsonLinesWriter(stream, header)
    if format == "csv":
        return CsvWriter(stream, header, CLASS_COLUMNS, class_rows)
    return TableWriter(stream, header)


class JsonWriter:
    """One JSON object for all files, written at the end."""

    def __init__(self, stream: TextIO, header: Mapping[str, Any]) -> None:
        self.stream = stream
        self.table = {**header, "results": [], "failures": []}

    def add(self, outcome: Outcome) -> None:
        self.table["failures" if outcome.failed else "results"].append(outcome.to_dict())

    def close(self) -> None:
        json.dump(self.table, self.stream, ensure_ascii=False, indent=2)
        self.stream.write("\n")


class JsonLinesWriter:
    """One JSON object per file, written at once; a failure has `error` and `reason`."""

    def __init__(self, stream: TextIO, header: Mapping[str, Any]) -> None:
        self.stream, self.header = stream, header

    def add(self, outcome: Outcome) -> None:
        line = {"path": outcome.path, **self.header, **outcome.to_dict()}
        self.stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.stream.flush()

    def close(self) -> None: ...


class CsvWriter:
    """CSV with any number of rows per file; a failed file has one row with its error. The warnings
    of a file are in each of its rows.

    `rows_of` gives the rows of the table of an outcome, without its path and model.
    """

    def __init__(
        self,
        stream: TextIO,
        header: Mapping[str, Any],
        columns: Sequence[str],
        rows_of: Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]],
    ) -> None:
        self.rows = SafeDictWriter(stream, columns, restval="")
        self.model, self.rows_of = header["model"], rows_of
        self.rows.writeheader()

    def add(self, outcome: Outcome) -> None:
        shared = {"path": outcome.path, "model": self.model}
        table = outcome.to_dict()
        if outcome.failed:
            self.rows.writerow({**shared, "error": table["error"]})
            return
        shared["warnings"] = "; ".join(table.get("warnings", ()))
        self.rows.writerows({**shared, **row} for row in self.rows_of(table))

    def close(self) -> None: ...


CLASS_COLUMNS = (
    "path",
    "model",
    "head",
    "rank",
    "index",
    "label",
    "score",
    "upstream_score",
    "error",
    "warnings",
    "answer",
    "classes",
)


def class_rows(table: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The CSV rows of a prediction: one per class."""
    decided = {"answer": table.get("answer"), "classes": "; ".join(table.get("classes", ()))}
    for head, ranking in table.get("heads", {"": table["predictions"]}).items():
        for rank, prediction in enumerate(ranking, 1):
            yield {"head": head, "rank": rank, **prediction, **decided}


class TableWriter:
    """The best classes of each file with bars, and at the end the model and the settings."""

    def __init__(self, stream: TextIO, header: Mapping[str, Any]) -> None:
        from rich.console import Console

        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        self.header, self.results, self.views = header, 0, 0

    def add(self, outcome: Outcome) -> None:
        if outcome.failed:
            return
        from rich.text import Text

        table = outcome.to_dict()
        self.results += 1
        self.views += len(table.get("views", ()))
        self.console.print(Text(outcome.path, style="bold"))
        if "answer" in table:
            self.console.print(Text(f"  answer: {table['answer']}"))
        if "classes" in table:
            word = "one of" if "answer" in table else "classes"
            self.console.print(Text(f"  {word}: {', '.join(table['classes']) or 'none'}"))
        for head, ranking in table.get("heads", {"": table["predictions"]}).items():
            if head:
                self.console.print(Text(f"  {head}", style="dim"))
            for prediction in ranking:
                self.console.print(_class_line(prediction))
        self.console.print()

    def close(self) -> None:
        from rich.text import Text

        if not self.results:
            return
        h = self.header
        views = _views_text(h["views"], self.views / self.results)
        text = f"{h['model']} · {views} · {h['precision']} on {h['device']}"
        self.console.print(Text(text, style="dim"))


def _class_line(prediction: Mapping[str, Any]) -> Any:
    from rich.text import Text

    bar = "█" * round(20 * prediction["score"])
    line = Text(f"  {100 * prediction['score']:5.1f} %  ")
    line.append(f"{bar:<20}", style="green")
    line.append(f"  {prediction['label']}")
    return line


def _views_text(views: str, used: float) -> str:
    """`views` of a header as words; `used` is the mean number of a video."""
    rule, _, most = views.rpartition(" ")
    clips, _, crops = most.partition("x")
    if rule:
        return f"{used:.1f} of {int(clips) * int(crops)} views per video"
    if views == "1x1":
        return "1 view"
    return f"{clips} clip{'s' * (clips != '1')} x {crops} crop{'s' * (crops != '1')}"
