"""What a bulk run stores of a video: one row, or one per window, with the same columns for a
prediction and a failure.

See `vtcli.runtime.rows.COLUMNS` for the types. Until a part is written, the windows of a video are
one row with a list `windows`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vtcli.inference.arrays import WindowModel
from vtcli.inference.decision import Decision
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import Failure, VideoPrediction, bytes_read
from vtcli.inference.run_store import Input
from vtcli.inference.scoring import ClassPrediction
from vtcli.inference.timeline import TimelinePredictor
from vtcli.inference.windows import Timeline
from vtcli.runtime.rows import Row
from vtcli.weights.graph_model import model_sha256
from vtcli.weights.resolve import resolve


@dataclass(frozen=True)
class RowPredictor:
    """Turns inputs into rows, with a fixed batch size (see `vtcli.inference.bulk.PartPredictor`).

    `keep_logits` also stores the logits of the first head, averaged over the views.
    """

    predictor: Predictor
    settings: Mapping[str, Any]
    keep_logits: bool = False

    def rows(self, inputs: Sequence[Input], missing: Set[int]) -> Iterator[tuple[int, Row]]:
        """The rows of the `missing` inputs, by their places in the part, as they come."""
        paths = [one.path for one in inputs]
        size = self.settings["batch_size"]
        outcomes = self.predictor.predict_part(paths, missing, size, ordered=False)
        for place, outcome in outcomes:
            yield place, {**input_columns(inputs[place], self.settings), **self._own(outcome)}

    def _own(self, outcome: VideoPrediction | Failure) -> dict[str, Any]:
        if isinstance(outcome, Failure):
            return failure_columns(outcome)
        row = {
            "start": 0.0,
            "end": outcome.info.duration,
            **_ranking(outcome.heads, outcome.decision),
            **_facts(outcome),
            "views": len(outcome.views),
        }
        if self.keep_logits:
            logits_VK = next(iter(outcome.view_logits.values()))
            row["logits"] = logits_VK.mean(0).half().tolist()
        return row


@dataclass(frozen=True)
class WindowRowPredictor:
    """Turns inputs into rows with a list `windows` (see `vtcli.inference.bulk.PartPredictor`)."""

    timeline: TimelinePredictor
    settings: Mapping[str, Any]

    def rows(self, inputs: Sequence[Input], missing: Set[int]) -> Iterator[tuple[int, Row]]:
        """The rows of the `missing` inputs, by their places in the part, as they come."""
        places = sorted(missing)
        outcomes = self.timeline.predict([inputs[place].path for place in places])
        for place, outcome in zip(places, outcomes, strict=True):
            yield place, {**input_columns(inputs[place], self.settings), **self._own(outcome)}

    def _own(self, outcome: Timeline | Failure) -> dict[str, Any]:
        if isinstance(outcome, Failure):
            return failure_columns(outcome)
        windows = [
            {"start": one.window.start, "end": one.window.end, **_ranking(one.heads, one.decision)}
            for one in outcome.windows
        ]
        return {**_facts(outcome), "windows": windows}


def input_columns(one: Input, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What every row of a run with these settings says of its input."""
    return {
        "path": one.path,
        "size": one.size,
        "mtime": one.mtime,
        "etag": one.etag or None,
        "model_fingerprint": settings["model_fingerprint"],
        "protocol": settings["protocol"],
    }


def failure_columns(outcome: Failure) -> dict[str, Any]:
    """What the row of an input says that failed."""
    return {"reason": outcome.error.reason, "error": str(outcome.error)}


def _facts(outcome: VideoPrediction | Timeline) -> dict[str, Any]:
    return {
        "frames": outcome.info.frames,
        "bytes_read": bytes_read(outcome.info),
        "warnings": list(outcome.warnings),
        "seconds": round(outcome.seconds, 6),
    }


def _ranking(
    heads: Mapping[str, Sequence[ClassPrediction]], decision: Decision | None
) -> dict[str, Any]:
    best = next(iter(heads.values()))
    row: dict[str, Any] = {
        "indices": [p.index for p in best],
        "labels": [p.label for p in best],
        "scores": [p.score for p in best],
    }
    if len(heads) > 1:
        every = {name: [vars(p) for p in ranking] for name, ranking in heads.items()}
        row["heads"] = json.dumps(every)
    if decision is not None and decision.classes is not None:
        row["classes"] = list(decision.classes)
    return row


def write_expanded(
    write: Callable[[Sequence[Row], Path], None], rows: Iterable[Row], path: Path
) -> None:
    """Write one row for each window of a row that has them; other rows as they are."""
    expanded = []
    for row in rows:
        whole = {name: value for name, value in row.items() if name != "windows"}
        expanded += [{**whole, **window} for window in row.get("windows", ({},))]
    write(expanded, path)


def run_settings(
    predictor: WindowModel,
    batch_size: int | None,
    row_format: str,
    timeline: TimelinePredictor | None = None,
) -> dict[str, Any]:
    """What makes two bulk runs the same; `batch_size` None: for a file that is not a run."""
    name = cast("str | Path", predictor.model)
    checkpoint = resolve(name, predictor.on_download, graphs=True)
    p = predictor.pipeline
    protocol = f"{predictor.clips}x{predictor.crops} views, {p.frames} frames, {p.view_fusion}"
    if predictor.stop_rule is not None:
        protocol = f"at most {protocol}, until {predictor.stop_rule.threshold:g} spread"
    protocol += ", strict" * predictor.settings.strict
    if timeline is not None:
        protocol += f", windows of {timeline.window:g} s every {timeline.stride:g} s"
    return {
        "model": predictor.header["model"],
        "model_fingerprint": model_sha256(checkpoint.path),
        "protocol": protocol,
        "pipeline": p.to_dict(),
        "label_set": predictor.settings.label_set,
        "decoder": predictor.settings.decoder,
        "topk": predictor.settings.topk,
        "precision": predictor.header["precision"],
        "batch_size": batch_size,
        "compile": predictor.settings.compile,
        "row_format": row_format,
    }
