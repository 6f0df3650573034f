"""The models of a server, what is accepted, and where uploads are kept while they are read."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from vtcli.errors import UsageError
from vtcli.inference.online import OnlineStream
from vtcli.inference.predictor import Predictor
from vtcli.inference.scoring import FeatureNetwork
from vtcli.inference.windows import Timeline
from vtcli.serving.admission import Admission
from vtcli.serving.jobs import TimelineJobs
from vtcli.serving.metrics import Metrics
from vtcli.serving.settings import ServeSettings

TimelineText: TypeAlias = Callable[[str, Mapping[str, Any], Timeline], str]
"""A timeline in a format (`srt`, `vtt`, `csv`, ...), from its header."""


class ServedModel:
    """A model of a server: its predictor, and a stream for the requests of each kind."""

    def __init__(self, name: str, predictor: Predictor, service: Service) -> None:
        self.name, self.predictor, self.service = name, predictor, service
        self._lock = threading.Lock()
        self.scores = self._stream()
        self._features: OnlineStream | None = None

    def _stream(self, **network: Any) -> OnlineStream:
        batches = self.service.metrics.batches.labels(self.name)
        seconds = self.service.settings.max_seconds
        return OnlineStream(
            self.predictor, max_seconds=seconds, on_batch=batches.observe, **network
        )

    @property
    def features(self) -> OnlineStream:
        """The stream that gives embeddings; raises `UsageError` for a model without features."""
        with self._lock:
            if self._features is None:
                self._features = self._stream(network=FeatureNetwork)
            return self._features

    def info(self) -> dict[str, Any]:
        """What /v1/models says of it."""
        card = self.predictor.net.card
        heads = [{"name": head.name, "labels": list(head.labels)} for head in card.heads]
        header = self.predictor.header
        names = ("dataset", "views", "precision", "device")
        return {"id": self.name, **{name: header[name] for name in names}, "heads": heads}

    def close(self) -> None:
        """Finish what was submitted and end the processes that decode."""
        for stream in (self.scores, self._features):
            if stream is not None:
                stream.close()
        self.predictor.close()


class Service:
    """Everything that the routes of one server share.

    `render` writes timelines in the formats other than JSON. Close it at the end.
    """

    def __init__(
        self, settings: ServeSettings, predictors: Sequence[Predictor], render: TimelineText
    ) -> None:
        self.settings, self.render = settings, render
        self.metrics = Metrics()
        self.admission = Admission(settings.concurrent, settings.queue)
        self.jobs = TimelineJobs(self.admission, settings.max_seconds)
        self._spool = tempfile.TemporaryDirectory(prefix="vt-serve-", ignore_cleanup_errors=True)
        self.models: dict[str, ServedModel] = {}
        self._aliases: dict[str, str] = {}
        for predictor in predictors:
            name = str(predictor.header["model"])
            self.models[name] = ServedModel(name, predictor, self)
            self._aliases[str(predictor.model)] = name
        gauge = self.metrics.gauge
        gauge("vt_accepted", "Requests that are accepted and not answered yet.", self._accepted)
        gauge("vt_working", "Requests that are decoded or scored.", self._working)

    def _accepted(self) -> float:
        return self.admission.accepted

    def _working(self) -> float:
        return self.admission.working

    @property
    def spool(self) -> Path:
        """The folder of uploads."""
        return Path(self._spool.name)

    def model(self, name: str | None) -> ServedModel:
        """A model by its id, or as it was given to the server; by default the first one.

        Raises `UsageError`.
        """
        if name is None:
            return next(iter(self.models.values()))
        found = self.models.get(self._aliases.get(name, name))
        if found is None:
            known = ", ".join(self.models)
            raise UsageError(f"the model '{name}' is not served; use one of {known}")
        return found

    def close(self) -> None:
        """Finish what was submitted and remove all uploads."""
        self.jobs.close()
        for model in self.models.values():
            model.close()
        self._spool.cleanup()
