"""The results of a search: tables, JSON and CSV for other programs, and an HTML contact sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeAlias

from vtcli.evaluation.thumbnails import FrameStrip
from vtcli.inference.embeddings_file import Embeddings
from vtcli.inference.results import Failure
from vtcli.inference.search import Match, SearchResult
from vtcli.report.pages import render_page, strip_frames
from vtcli.report.tables import print_rows
from vtcli.runtime.csv_cells import SafeDictWriter
from vtcli.runtime.words import percent, plural

SCHEMA = 1
"""Version of the JSON form."""
CSV_COLUMNS = (
    *("query", "kind", "class", "class_score", "rank", "score", "id", "path", "start", "end"),
    *("label", "error"),
)
VOTES_SHOWN = 5
Place: TypeAlias = tuple[str, float | None, float | None]
"""A path, start and end in seconds; None: not known."""


class SearchReport:
    """The results of a search in an index, in any format; `failures` are queries without one."""

    def __init__(
        self,
        index: Embeddings,
        name: str,
        results: Sequence[SearchResult],
        failures: Sequence[Failure],
    ) -> None:
        self.index, self.name = index, name
        self.results, self.failures = results, failures

    def _match(self, rank: int, match: Match) -> dict[str, Any]:
        index, row = self.index, match.row
        path, start, end = place_of(index, row)
        found: dict[str, Any] = {
            "rank": rank,
            "score": round(match.score, 6),
            "id": index.ids[row],
            "path": path,
            "start": start,
            "end": end,
        }
        return found | ({"label": index.labels[row]} if index.labels else {})

    def _matches(self, result: SearchResult) -> list[dict[str, Any]]:
        return [self._match(rank, match) for rank, match in enumerate(result.matches, 1)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        queries = []
        for result in self.results:
            votes = [{"label": v.label, "score": round(v.score, 6)} for v in result.votes]
            queries.append(
                {
                    "query": result.query.text,
                    "kind": result.query.kind,
                    **({"classes": votes} if votes else {}),
                    "matches": self._matches(result),
                }
            )
        return {
            "schema": SCHEMA,
            "index": self.name,
            "embeddings": len(self.index),
            "model": self.index.settings.get("model"),
            "queries": queries,
            "failures": [failure.to_dict() for failure in self.failures],
        }

    def write(self, format: str, stream: TextIO) -> None:
        """Write a table, JSON or CSV."""
        if format == "json":
            json.dump(self.to_dict(), stream, ensure_ascii=False, indent=2)
            stream.write("\n")
        elif format == "csv":
            rows = SafeDictWriter(stream, CSV_COLUMNS, restval="", lineterminator="\n")
            rows.writeheader()
            rows.writerows(self._csv_rows())
        else:
            self._print(stream)

    def _csv_rows(self) -> Iterator[dict[str, Any]]:
        for result in self.results:
            common: dict[str, Any] = {"query": result.query.text, "kind": result.query.kind}
            if result.votes:
                best = result.votes[0]
                common |= {"class": best.label, "class_score": round(best.score, 6)}
            for match in self._matches(result):
                yield common | match
        for failure in self.failures:
            yield {"query": failure.path, "error": str(failure.error)}

    def _print(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.text import Text

        console = Console(file=stream, highlight=False)
        labeled = ("label",) if self.index.labels else ()
        for result in self.results:
            console.print(Text(result.query.text, style="bold"), soft_wrap=True)
            for vote in result.votes[:VOTES_SHOWN]:
                console.print(Text(f"  {percent(vote.score):>5} %  {vote.label}"), soft_wrap=True)
            rows = []
            for match in self._matches(result):
                label = (match["label"],) if labeled else ()
                place = (match["path"], _times(match["start"], match["end"]))
                rows.append((str(match["rank"]), f"{match['score']:.3f}", *label, *place))
            left = {*labeled, "path"}
            print_rows(("rank", "score", *labeled, "path", "seconds"), rows, left, console)

    def contact_sheet(self, strips: Mapping[Place, FrameStrip]) -> str:
        """A page with the frames of each query and of its matches."""
        queries = []
        for result in self.results:
            matches = [
                {
                    **match,
                    "score": f"{match['score']:.3f}",
                    "label": match.get("label", ""),
                    "times": _times(match["start"], match["end"], " s"),
                    "frames": _frames(strips, (match["path"], match["start"], match["end"])),
                }
                for match in self._matches(result)
            ]
            queries.append(
                {
                    "text": result.query.text,
                    "kind": result.query.kind,
                    "votes": result.votes[:VOTES_SHOWN],
                    "frames": _frames(strips, (result.query.path, None, None)),
                    "matches": matches,
                }
            )
        found = plural(len(self.index), "embedding")
        model = self.index.settings.get("model") or "a model that is not known"
        return render_page(
            "contact_sheet.html.j2",
            title=f"Nearest clips in {self.name}",
            lead=f"{found} of {model}; cosine similarity, highest first",
            queries=queries,
        )


def place_of(index: Embeddings, row: int) -> Place:
    """Which part of which video an embedding is of."""
    return index.paths[row], _known(index.starts[row]), _known(index.ends[row])


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else round(float(seconds), 3)


def _times(start: float | None, end: float | None, unit: str = "") -> str:
    return "" if start is None or end is None else f"{start:g}–{end:g}{unit}"


def _frames(strips: Mapping[Place, FrameStrip], place: Place) -> list[dict[str, str]]:
    return strip_frames(*strips.get(place, FrameStrip()))
