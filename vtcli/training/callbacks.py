"""What is told of a training while it runs: one protocol for trackers, logs and services.

A callback is called in the main process only. One that cannot begin ends the command; one that
fails later is reported and not called again, since a tracker that is away must not end a training.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtcli.errors import UsageError
from vtcli.training.results import TrainProgress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """A training that begins or is resumed.

    `folder` is the run directory. `settings` are those of `training.json`, JSON-able: recipe,
    model, data, seed. `steps` are the optimizer steps of the whole training, `steps_done` of them
    are done; 0 steps where the classifier is fitted to cached features.
    """

    folder: Path
    settings: Mapping[str, Any]
    train_videos: int
    val_videos: int
    steps: int
    steps_done: int

    @property
    def resumed(self) -> bool:
        """Whether an earlier process has begun this training."""
        return self.steps_done > 0


class Callback:
    """Base class of callbacks: override what you need.

    The methods are called in this order: `on_run_begin`, `on_step_end` after every optimizer step,
    `on_epoch_end` after every validation, `on_run_end`.
    """

    def on_run_begin(self, run: RunInfo) -> None:
        """The training begins, or is resumed."""

    def on_step_end(self, progress: TrainProgress) -> None:
        """An optimizer step is done."""

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        """An epoch is validated and its files are written.

        `row` is its row of history.csv (`vtcli.training.artifacts.COLUMNS`).
        """

    def on_run_end(self, ended: str, best: Mapping[str, Any] | None) -> None:
        """The training ends.

        `ended` is `all epochs done`, `early stopping`, `interrupted`, `terminated` or `failed`;
        `best` is the row of the best epoch so far, None before the first.
        """


class CallbackList(Callback):
    """Passes every call on to several callbacks."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = list(callbacks)

    def on_run_begin(self, run: RunInfo) -> None:
        """See `Callback`; raises `UsageError` naming a callback that fails."""
        for callback in self.callbacks:
            try:
                callback.on_run_begin(run)
            except Exception as error:
                raise UsageError(
                    f"the callback {type(callback).__name__} cannot begin: "
                    f"{type(error).__name__}: {error}; fix that, or leave out --callback"
                ) from error

    def on_step_end(self, progress: TrainProgress) -> None:
        """See `Callback`."""
        self._call("on_step_end", progress)

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self._call("on_epoch_end", row)

    def on_run_end(self, ended: str, best: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        self._call("on_run_end", ended, best)

    def _call(self, method: str, *arguments: Any) -> None:
        for callback in list(self.callbacks):
            try:
                getattr(callback, method)(*arguments)
            except Exception as error:
                self.callbacks.remove(callback)
                _log.warning(
                    "the callback %s failed in %s and is not called again: %s: %s",
                    *(type(callback).__name__, method, type(error).__name__, error),
                )


@contextmanager
def reported_end(callbacks: Callback, state: Mapping[str, Any]) -> Iterator[None]:
    """Call `on_run_end` however the block ends; `state` then has `ended` and `best`, if known."""
    ended = "failed"
    try:
        yield
        ended = state["ended"]
    finally:
        callbacks.on_run_end(ended, state.get("best"))


def load_callback(name: str) -> Callback:
    """A new object of the class that `FILE.py:CLASS` or `package.module:CLASS` names.

    Runs the code of that file or module. Raises `UsageError` where it cannot be imported, and for
    anything but a subclass of `Callback`.
    """
    source, _, attribute = name.rpartition(":")
    if not source or not attribute.isidentifier():
        raise UsageError(f"--callback takes FILE.py:CLASS or module:CLASS, not '{name}'")
    try:
        module = _load_file(Path(source)) if source.endswith(".py") else _import(source)
        found = getattr(module, attribute, None)
        if not (isinstance(found, type) and issubclass(found, Callback)):
            raise UsageError(
                f"{source} has no class {attribute} that derives from vtcli.training.Callback"
            )
        return found()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"the callback {name} cannot be made: {type(error).__name__}: {error}"
        ) from error


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _import(name: str) -> Any:
    # A module beside the data and scripts of the user, as `python -m` finds it.
    if "" not in sys.path:
        sys.path.insert(0, "")
    return importlib.import_module(name)
