"""TODO-HEAD"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vtcli.errors import VideoDecodeError
from vtcli.inference.scoring import ClassPrediction
from vtcli.video.pipeline import View

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.video.decode import VideoInfo

SCHEMA = 1


def video_table(path: str, info: VideoInfo) -> dict[str, Any]:
    """What an answer's JSON says of its file."""
    return {
        "path": path,
        "frames": info.frames,
        "fps": info.fps,
        "duration": info.duration,
        "width": info.width,
        "height": info.height,
    }


@dataclass(frozen=True)
class VideoPrediction:
    """What a model says of one file; `predictions` is the ranking of the first (or only) head."""

    path: str
    info: VideoInfo
    views: tuple[View, ...]
    heads: Mapping[str, tuple[ClassPrediction, ...]]
    view_logits: Mapping[str, Tensor]
    seconds: float
    failed: ClassVar[bool] = False

    @property
    def predictions(self) -> tuple[ClassPrediction, ...]:
        """The classes, best first."""
        return next(iter(self.heads.values()))

    @property
    def error(self) -> None:
        """An answer has none; see `Failure`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `heads` only where there are several."""
        answers = {name: [vars(a) for a in ranking] for name, ranking in self.heads.items()}
        table: dict[str, Any] = {
            **video_table(self.path, self.info),
            "predictions": next(iter(answers.values())),
            "views": [
                {"clip": v.clip, "crop": v.crop, "frames": [int(i) for i in v.frame_indices]}
                for v in self.views
            ],
            "seconds": round(self.seconds, 3),
        }
        return table | ({"heads": answers} if len(answers) > 1 else {})


@dataclass(frozen=True)
class Failure:
    """A file that gave no answer, and why."""

    path: str
    error: VideoDecodeError
    failed: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"path": self.path, "reason": self.error.reason, "error": str(self.error)}


@dataclass
class PredictionResult:
    """All answers of one call; `header` says what they were made with."""

    header: Mapping[str, Any]
    results: list[VideoPrediction] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def predictions(self) -> tuple[ClassPrediction, ...]:
        """The ranking of the first file that was answered; nothing where none was."""
        return self.results[0].predictions if self.results else ()

    def to_dict(self) -> dict[str, Any]:
        """What `vt predict --format json` prints."""
        return {
            **self.header,
            "results": [r.to_dict() for r in self.results],
            "failures": [f.to_dict() for f in self.failures],
        }
