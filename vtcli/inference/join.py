"""Begins a bulk run, or joins one: loads the model and takes from the run what was chosen for it.

Every process of a run does this by itself, on whatever machine it is, from the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from vtcli.errors import UsageError
from vtcli.inference.bulk import PartPredictor
from vtcli.inference.predictor import Predictor, PredictSettings
from vtcli.inference.rows import RowPredictor, WindowRowPredictor, run_settings, write_expanded
from vtcli.inference.run_store import RunStore
from vtcli.inference.same_run import AUTOMATIC
from vtcli.inference.timeline import TimelinePredictor
from vtcli.runtime.progress import ProgressCallback
from vtcli.runtime.rows import EXTENSIONS, Row, RowFormat, writer_of


class RowMaker(Protocol):
    """What a run makes of each video; picklable."""

    def settings(self, predictor: Predictor, batch_size: int, row_format: str) -> dict[str, Any]:
        """What makes two such runs the same."""
        ...

    def predictor(self, predictor: Predictor, settings: Mapping[str, Any]) -> PartPredictor:
        """What turns inputs into rows; `settings` are those of the run."""
        ...

    def writer(self, settings: Mapping[str, Any]) -> Callable[[Sequence[Row], Path], None]:
        """What writes the rows of a part."""
        ...


@dataclass(frozen=True)
class PredictionMaker:
    """The best classes of each video, and with `keep_logits` the logits of all.

    `window` and `stride`, in seconds: one row per window instead of one per video. Raises
    `UsageError` for logits of windows.
    """

    keep_logits: bool = False
    window: float | None = None
    stride: float | None = None

    def __post_init__(self) -> None:
        if self.keep_logits and self.window is not None:
            raise UsageError("--keep-logits is for whole videos; leave out --window")

    def settings(self, predictor: Predictor, batch_size: int, row_format: str) -> dict[str, Any]:
        """See `RowMaker`."""
        settings = run_settings(predictor, batch_size, row_format, self._timeline(predictor))
        return {**settings, "keep_logits": self.keep_logits}

    def predictor(self, predictor: Predictor, settings: Mapping[str, Any]) -> PartPredictor:
        """See `RowMaker`."""
        timeline = self._timeline(predictor)
        if timeline is None:
            return RowPredictor(predictor, settings, settings.get("keep_logits", False))
        # Windows of one video go through the network together, in batches of the run's size.
        predictor.settings = replace(predictor.settings, batch_size=settings["batch_size"])
        return WindowRowPredictor(timeline, settings)

    def writer(self, settings: Mapping[str, Any]) -> Callable[[Sequence[Row], Path], None]:
        """See `RowMaker`."""
        return partial(write_expanded, writer_of(settings["row_format"]))

    def _timeline(self, predictor: Predictor) -> TimelinePredictor | None:
        if self.window is None:
            return None
        return TimelinePredictor(predictor, self.window, self.stride)


@dataclass(frozen=True)
class RunRequest:
    """What the rows of a run in `folder` are made with; picklable.

    `row_format` None: as in the run, else Parquet where pyarrow is installed.
    """

    folder: Path
    model: str
    settings: PredictSettings
    row_format: RowFormat | None = None
    rows: RowMaker = PredictionMaker()


@dataclass(frozen=True)
class JoinedRun:
    """A run as one process works on it; `settings` are those of its run.json."""

    predictor: Predictor
    store: RunStore
    settings: Mapping[str, Any]
    rows: PartPredictor
    write: Callable[[Sequence[Row], Path], None]


def join_run(request: RunRequest, on_download: ProgressCallback | None = None) -> JoinedRun:
    """Load the model, and begin the run or join it.

    Raises what `Predictor.net` raises, and `DataError` where the folder holds another run.
    """
    store = RunStore(request.folder, "")
    earlier = store.read_settings() if store.exists() else {}
    asked = request.settings
    row_format: RowFormat = request.row_format or earlier.get("row_format") or _default_format()
    writer_of(row_format)  # raises before anything is computed where a library is missing
    settings = replace(
        asked,
        precision=earlier.get("precision", "auto")
        if asked.precision == "auto"
        else asked.precision,
        batch_size=asked.batch_size or earlier.get("batch_size"),
        compile=asked.compile or earlier.get("compile", False),
    )
    predictor = Predictor(request.model, settings, on_download=on_download)
    with ExitStack() as undo:
        undo.callback(predictor.close)
        predictor.decoders.start()  # while the weights load
        _ = predictor.net
        joined = _join(request, predictor, store, row_format)
        if joined is not None:
            undo.pop_all()
            return joined
    # Another process, on a machine with another device, has just begun the run.
    return join_run(request, on_download)


def _join(
    request: RunRequest, predictor: Predictor, store: RunStore, row_format: RowFormat
) -> JoinedRun | None:
    """The run with this predictor; None where the run was begun with another one."""
    asked = request.settings
    own = request.rows.settings(predictor, predictor.auto_batch_size(), row_format)
    stated = {
        "precision": asked.precision != "auto",
        "batch_size": asked.batch_size is not None,
        "compile": asked.compile,
        "row_format": request.row_format is not None,
    }
    automatic = [name for name in AUTOMATIC if not stated[name]]
    if not own.get("keep_logits"):
        automatic.append("keep_logits")
    chosen = store.open(own, automatic)
    if any(chosen.get(name, False) != own[name] for name in AUTOMATIC):
        return None
    store.extension = EXTENSIONS[chosen["row_format"]]
    rows = request.rows.predictor(predictor, chosen)
    return JoinedRun(predictor, store, chosen, rows, request.rows.writer(chosen))


def _default_format() -> RowFormat:
    return "parquet" if find_spec("pyarrow") else "jsonl"
