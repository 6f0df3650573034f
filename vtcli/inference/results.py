"""Result records of `predict`: a prediction or a failure per file, and their JSON form.

Shape legend: V views, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vtcli.errors import DataError, VideoDecodeError
from vtcli.inference.decision import Decision
from vtcli.inference.scoring import ClassPrediction
from vtcli.video.pipeline import View
from vtcli.video.remote import RemotePath

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.video.decode import VideoInfo

SCHEMA = 1
"""Version of the JSON form."""


def video_table(path: str, info: VideoInfo) -> dict[str, Any]:
    """The JSON fields that describe a video file; `bytes_read` for a remote one."""
    table: dict[str, Any] = {
        "path": path,
        "frames": info.frames,
        "fps": info.fps,
        "duration": info.duration,
        "width": info.width,
        "height": info.height,
    }
    transferred = bytes_read(info)
    return table if transferred is None else table | {"bytes_read": transferred}


def bytes_read(info: VideoInfo) -> int | None:
    """Bytes that were transferred for a remote video; None for a local file."""
    return info.path.bytes_read if isinstance(info.path, RemotePath) else None


def ranking_table(heads: Mapping[str, tuple[ClassPrediction, ...]]) -> dict[str, Any]:
    """The JSON fields of a ranking: `predictions` of the first head, `heads` if there are more."""
    rankings = {name: [vars(p) for p in ranking] for name, ranking in heads.items()}
    table: dict[str, Any] = {"predictions": next(iter(rankings.values()))}
    return table | ({"heads": rankings} if len(rankings) > 1 else {})


@dataclass(frozen=True)
class VideoPrediction:
    """The prediction for one file.

    `heads`: per head, the best classes, best first. `view_logits`: per head, fp32 [V,K] on the CPU.
    `seconds`: time of preprocessing and the forward pass. `warnings`: signs of damage in the file.
    `decision`: the answer that a calibrated model stands for, where one was asked for.
    """

    path: str
    info: VideoInfo
    views: tuple[View, ...]
    heads: Mapping[str, tuple[ClassPrediction, ...]]
    view_logits: Mapping[str, Tensor]
    seconds: float
    warnings: tuple[str, ...] = ()
    decision: Decision | None = None
    failed: ClassVar[bool] = False

    @property
    def predictions(self) -> tuple[ClassPrediction, ...]:
        """The best classes of the first (or only) head, best first."""
        return next(iter(self.heads.values()))

    @property
    def error(self) -> None:
        """Always None; see `Failure`."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `heads` is present only where there are several."""
        return {
            **video_table(self.path, self.info),
            **ranking_table(self.heads),
            **(self.decision.to_dict() if self.decision else {}),
            "views": [
                {"clip": v.clip, "crop": v.crop, "frames": [int(i) for i in v.frame_indices]}
                for v in self.views
            ],
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 3),
        }

    def _repr_html_(self) -> str:
        """The ranking as a table, in a notebook."""
        return _html_table((self.path, p.label, f"{p.score:.1%}") for p in self.predictions)


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, and why."""

    path: str
    error: VideoDecodeError
    failed: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"path": self.path, "reason": self.error.reason, "error": str(self.error)}

    def _repr_html_(self) -> str:
        """The reason as a table, in a notebook."""
        return _html_table([(self.path, self.error.reason, self.error)])


def _html_table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells as an HTML table, escaped."""
    from html import escape

    lines = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


@dataclass
class PredictionResult:
    """All predictions of one call; `header` describes the model and the settings."""

    header: Mapping[str, Any]
    results: list[VideoPrediction] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def predictions(self) -> tuple[ClassPrediction, ...]:
        """The best classes of the first file that could be read; empty if none could."""
        return self.results[0].predictions if self.results else ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as printed by `vt predict --format json`."""
        return {
            **self.header,
            "results": [r.to_dict() for r in self.results],
            "failures": [f.to_dict() for f in self.failures],
        }

    def to_pandas(self) -> Any:
        """A data frame with one row per class and file: path, rank, index, label, score, reason,
        error. Raises `DataError` where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise DataError("to_pandas needs pandas: pip install pandas") from error
        rows: list[dict[str, Any]] = [
            {
                "path": video.path,
                "rank": rank,
                "index": p.index,
                "label": p.label,
                "score": p.score,
                "reason": None,
                "error": None,
            }
            for video in self.results
            for rank, p in enumerate(video.predictions, 1)
        ]
        rows += [failure.to_dict() for failure in self.failures]
        columns = ["path", "rank", "index", "label", "score", "reason", "error"]
        return pandas.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        """The best class of every file as a table, in a notebook."""
        best = [
            (v.path, v.predictions[0].label, f"{v.predictions[0].score:.1%}") for v in self.results
        ]
        failed = [(f.path, f.error.reason, f.error) for f in self.failures]
        return _html_table([*best, *failed])
