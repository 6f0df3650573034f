"""The steps of `vt demo`: every main command once, on synthetic clips and with bundled models.

Each step does what a command does; the clips are a new test split of Motion-8
(`vtcli.synthetic.motion8`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtcli.data.clip_loader import workers_of
from vtcli.errors import DataError
from vtcli.runtime.files import atomic_write
from vtcli.synthetic.motion8 import (
    FRAMES_PER_SECOND,
    MOTIONS,
    draw_scene,
    encode,
    make_motion8,
    render,
)
from vtcli.weights.registry import bundled_path, load_registry

if TYPE_CHECKING:
    from vtcli.evaluation.results import EvaluationReport
    from vtcli.inference.windows import Timeline
    from vtcli.profiling import ProfileReport
    from vtcli.runtime.progress import ProgressCallback

CLIPS_PER_CLASS = 12
FRAMES = 24
FILM_SIDE = 240
SECONDS = FRAMES / FRAMES_PER_SECOND


@dataclass(frozen=True)
class DemoClip:
    """One clip: its label, and each model's top-1 class and its probability."""

    path: str
    target: str
    predictions: Mapping[str, tuple[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        predictions = {
            model: {"label": label, "score": score, "correct": label == self.target}
            for model, (label, score) in self.predictions.items()
        }
        return {"path": self.path, "target": self.target, "predictions": predictions}


@dataclass(frozen=True)
class Demo:
    """The steps of one demonstration, which write to `folder`; clips depend only on `seed`."""

    folder: Path
    seed: int = 0
    device: str = "auto"
    workers: int | None = None

    @property
    def models(self) -> list[str]:
        """Ids of the models whose weights are bundled with this package."""
        return [
            row.id
            for row in load_registry().checkpoints.values()
            if bundled_path(row, last_resort=True)
        ]

    @property
    def clips(self) -> int:
        """Number of clips of all classes."""
        return CLIPS_PER_CLASS * len(MOTIONS)

    @property
    def examples(self) -> list[tuple[str, Path]]:
        """One clip of each class."""
        return [(motion, self.dataset / "test" / motion / "0000.mp4") for motion in MOTIONS]

    @property
    def dataset(self) -> Path:
        """The folder of the Motion-8 dataset with the test clips."""
        return self.folder / "motion8"

    @property
    def film(self) -> Path:
        """The video of all motions, one after the other."""
        return self.folder / "film.mp4"

    @property
    def annotated(self) -> Path:
        """The film with its timeline drawn into the frames."""
        return self.folder / "film-annotated.mp4"

    def make_clips(self, progress: ProgressCallback | None = None) -> None:
        """Write the test clips, unless an earlier demonstration with this seed has.

        Raises `DataError` if the folder holds other files or cannot be written.
        """
        folder = self.folder
        if folder.exists() and (
            not folder.is_dir() or any(map(self._is_foreign, folder.iterdir()))
        ):
            raise DataError(f"{folder} is not an empty folder; name another with -o")
        make_motion8(
            self.dataset,
            clips={"test": self.clips},
            seed=self.seed,
            frames=FRAMES,
            workers=workers_of(self.workers, 1),
            progress=progress,
        )

    def _is_foreign(self, path: Path) -> bool:
        """Whether no demonstration made this file of the folder."""
        own = (self.dataset, self.film, self.annotated, self.run("*").parent)
        return path not in own and not path.name.startswith(f".{self.dataset.name}.")

    def predict(self) -> list[DemoClip]:
        """Classify one clip of each class with every model."""
        from vtcli.inference.predictor import Predictor
        from vtcli.inference.results import VideoPrediction

        predictions: dict[str, dict[str, tuple[str, float]]] = {
            str(path): {} for _, path in self.examples
        }
        for model in self.models:
            for outcome in Predictor(model, topk=1, device=self.device).predict(list(predictions)):
                if not isinstance(outcome, VideoPrediction):
                    raise outcome.error
                best = outcome.predictions[0]
                predictions[outcome.path][model] = (best.label, best.score)
        return [DemoClip(str(p), motion, predictions[str(p)]) for motion, p in self.examples]

    def profile(self) -> ProfileReport:
        """Parameters, multiply-accumulates and latency of every model."""
        from vtcli.profiling import ProfileSettings, profile

        return profile(self.models, ProfileSettings(device=self.device, timed=True))

    def evaluate(self, model: str) -> EvaluationReport:
        """A model's accuracy on all clips; its run directory holds the scores."""
        from vtcli.data.open import open_dataset
        from vtcli.evaluation.evaluator import Evaluator
        from vtcli.evaluation.plan import EvalSettings, plan_evaluation
        from vtcli.runtime.distributed import Group

        dataset = open_dataset("motion8", self.dataset)
        settings = EvalSettings(device=self.device, workers=self.workers)
        evaluator = Evaluator(plan_evaluation(dataset, model, settings), self.run(model), Group())
        evaluator.run()
        return evaluator.conclude()

    def run(self, model: str) -> Path:
        """The run directory of a model's evaluation."""
        return self.folder / "runs" / model

    def make_film(self) -> None:
        """Write a video of all motions, one after the other, with other scenes than the clips."""
        frames_THWC = np.concatenate(list(self._scenes()))
        film = encode(frames_THWC)
        with atomic_write(self.film, len(film)) as part:
            part.write_bytes(film)

    def _scenes(self) -> Iterator[Any]:
        for motion in MOTIONS:
            yield render(
                draw_scene(
                    "test",
                    motion,
                    CLIPS_PER_CLASS,
                    seed=self.seed,
                    size=FILM_SIDE,
                    frames=FRAMES,
                )
            )

    def watch_film(self, model: str) -> tuple[Mapping[str, Any], Timeline]:
        """Predict the timeline of the film and draw it into a copy; returns the settings that the
        timeline was made with, and the timeline.
        """
        from vtcli.inference.predictor import Predictor
        from vtcli.inference.results import Failure
        from vtcli.inference.timeline import TimelinePredictor
        from vtcli.video.overlay import annotate

        predictor = TimelinePredictor(
            Predictor(model, topk=1, device=self.device), window=SECONDS, stride=SECONDS
        )
        (timeline,) = predictor.predict([self.film])
        if isinstance(timeline, Failure):
            raise timeline.error
        with atomic_write(self.annotated) as part:
            annotate(timeline.info, timeline.segments, part)
        return predictor.header, timeline
