"""The per-view scores of a finished run as one file for other tools: NumPy or Parquet.

Shape legend: N samples that were read, V views, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import UsageError
from vtcli.evaluation.aggregate import load_run_scores, stored_protocol
from vtcli.evaluation.run_directory import RunDirectory, RunSample
from vtcli.runtime.extras import missing_package
from vtcli.runtime.files import atomic_write
from vtcli.runtime.progress import ProgressCallback, no_progress
from vtcli.runtime.words import valid_text

EXPORT_FORMAT = 1
EXPORT_EXTENSIONS = (".npz", ".parquet")


@dataclass(frozen=True)
class ExportedScores:
    """The samples that were read, and per head the logits [N,V,K] in float32."""

    samples: tuple[RunSample, ...]
    labels: dict[str, tuple[str, ...]]
    logits: dict[str, NDArray[np.float32]]
    settings: dict[str, Any]
    failed: int

    @property
    def views(self) -> int:
        """Number of views of each sample."""
        return next(iter(self.logits.values())).shape[1]


def export_scores(
    run: RunDirectory, path: Path, on_video: ProgressCallback = no_progress
) -> ExportedScores:
    """Write all per-view scores of a finished run; the extension of `path` says how.

    on_video: called with the videos whose scores are read. Raises `UsageError` for another
    extension or without pyarrow, `DataError` for a run that is not finished or a file that cannot
    be written.
    """
    write = _writer(path)
    exported = collect_scores(run, on_video)
    on_video(f"writing {path.name}", 0, None)
    with atomic_write(path) as part:
        write(exported, part)
    return exported


def _writer(path: Path) -> Callable[[ExportedScores, Path], None]:
    if path.suffix not in EXPORT_EXTENSIONS:
        raise UsageError(
            f"{path} is not a score file; use the extension {' or '.join(EXPORT_EXTENSIONS)}"
        )
    if path.suffix == ".npz":
        return _write_npz
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UsageError(missing_package("Parquet files", "pyarrow", "parquet")) from error
    return _write_parquet


def collect_scores(run: RunDirectory, on_video: ProgressCallback = no_progress) -> ExportedScores:
    """All per-view scores of a finished run; raises `DataError` for one that is not finished.

    on_video: called with the videos whose scores are read.
    """
    info, scores = run.info, run.scores()
    found = load_run_scores(run, on_video=on_video)
    protocol = stored_protocol(info)
    views = range(protocol.views)
    logits = {
        head: np.zeros((len(found.read), len(views), len(names)), np.float32)
        for head, names in found.labels.items()
    }
    for row, sample in enumerate(found.read):
        for head, logits_VK in scores.logits(sample.key, views, list(found.labels)).items():
            logits[head][row] = logits_VK
        on_video("collecting the views", row + 1, len(found.read))
    settings = {
        "format": EXPORT_FORMAT,
        "model": info["model"],
        "model_sha256": info["model_sha256"],
        "dataset": info["dataset"],
        "split": info["split"],
        "view_fusion": protocol.pipeline.view_fusion,
    }
    return ExportedScores(
        tuple(found.read), dict(found.labels), logits, settings, len(found.failed)
    )


def _write_npz(exported: ExportedScores, path: Path) -> None:
    """Arrays of numbers and text only, so that `allow_pickle` is not needed."""
    arrays: dict[str, Any] = {
        "id": _texts([sample.id for sample in exported.samples]),
        "path": _texts([sample.path for sample in exported.samples]),
        "settings": np.array(json.dumps(exported.settings)),
    }
    for index, (head, names) in enumerate(exported.labels.items()):
        targets = [sample.target[index] for sample in exported.samples]
        width = max([1, *map(len, targets)])
        padded = [[*target, *[-1] * (width - len(target))] for target in targets]
        arrays[f"{head}_logits"] = exported.logits[head]
        arrays[f"{head}_target"] = np.array(padded, np.int64).reshape(len(targets), width)
        arrays[f"{head}_classes"] = _texts(names)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _write_parquet(exported: ExportedScores, path: Path) -> None:
    """A row per view; class names and settings are in the metadata of the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    views, samples = exported.views, exported.samples
    columns: dict[str, Any] = {
        "id": pa.array([valid_text(s.id) for s in samples for _ in range(views)], pa.string()),
        "path": pa.array([valid_text(s.path) for s in samples for _ in range(views)], pa.string()),
        "view": pa.array(list(range(views)) * len(samples), pa.int32()),
    }
    for index, (head, logits_NVK) in enumerate(exported.logits.items()):
        targets = [list(s.target[index]) for s in samples for _ in range(views)]
        columns[f"{head}_target"] = pa.array(targets, pa.list_(pa.int64()))
        flat = pa.array(logits_NVK.reshape(-1))
        columns[f"{head}_logits"] = pa.FixedSizeListArray.from_arrays(flat, logits_NVK.shape[2])
    metadata = {f"{head}_classes": json.dumps(names) for head, names in exported.labels.items()}
    table = pa.table(columns, metadata={**metadata, "settings": json.dumps(exported.settings)})
    pq.write_table(table, path)


def _texts(values: Any) -> Any:
    return np.array([valid_text(value) for value in values], np.str_)
