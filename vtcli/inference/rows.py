"""What a bulk run stores of a video: one row, with the same columns for a prediction and a failure.

See `vtcli.runtime.rows.COLUMNS` for the types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from vtcli.inference.predictor import Predictor
from vtcli.inference.results import Failure, VideoPrediction, bytes_read
from vtcli.inference.run_store import Input
from vtcli.runtime.files import file_sha256
from vtcli.runtime.rows import Row
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
        outcomes = self.predictor.predict_part(paths, missing, self.settings["batch_size"])
        for place, outcome in outcomes:
            yield place, {**self._common(inputs[place]), **self._own(outcome)}

    def _common(self, one: Input) -> dict[str, Any]:
        return {
            "path": one.path,
            "size": one.size,
            "mtime": one.mtime,
            "etag": one.etag or None,
            "model_fingerprint": self.settings["model_fingerprint"],
            "protocol": self.settings["protocol"],
        }

    def _own(self, outcome: VideoPrediction | Failure) -> dict[str, Any]:
        if isinstance(outcome, Failure):
            return {"reason": outcome.error.reason, "error": str(outcome.error)}
        best = outcome.predictions
        row: dict[str, Any] = {
            "start": 0.0,
            "end": outcome.info.duration,
            "indices": [p.index for p in best],
            "labels": [p.label for p in best],
            "scores": [p.score for p in best],
            "frames": outcome.info.frames,
            "bytes_read": bytes_read(outcome.info),
            "warnings": list(outcome.warnings),
            "seconds": round(outcome.seconds, 6),
        }
        if len(outcome.heads) > 1:
            heads = {name: [vars(p) for p in ranking] for name, ranking in outcome.heads.items()}
            row["heads"] = json.dumps(heads)
        if self.keep_logits:
            logits_VK = next(iter(outcome.view_logits.values()))
            row["logits"] = logits_VK.mean(0).half().tolist()
        return row


def run_settings(predictor: Predictor, batch_size: int | None, row_format: str) -> dict[str, Any]:
    """What makes two bulk runs the same; `batch_size` None: taken from the run that is joined."""
    checkpoint = resolve(predictor.model, predictor.on_download)
    p = predictor.pipeline
    protocol = f"{predictor.clips}x{predictor.crops} views, {p.frames} frames, {p.view_fusion}"
    protocol += ", strict" * predictor.settings.strict
    return {
        "model": predictor.header["model"],
        "model_fingerprint": file_sha256(checkpoint.path),
        "protocol": protocol,
        "pipeline": p.to_dict(),
        "label_set": predictor.settings.label_set,
        "decoder": predictor.settings.decoder,
        "topk": predictor.settings.topk,
        "precision": predictor.header["precision"],
        "batch_size": batch_size,
        "row_format": row_format,
    }
