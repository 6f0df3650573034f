"""Result records of `predict`: a prediction or a failure per file, and their JSON form.

Shape legend: V views, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

    @property
    def label(self) -> str:
        """The name of the best class."""
        return self.predictions[0].label

    @property
    def score(self) -> float:
        """The probability of the best class."""
        return self.predictions[0].score

    def __str__(self) -> str:
        """The path, and a line per class."""
        lines = (f"  {p.score:6.1%}  {p.label}" for p in self.predictions)
        return "\n".join([self.path, *lines])

    def __repr__(self) -> str:
        return f"VideoPrediction({self.path!r}, {self.label!r}, {self.score:.3f})"

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
        return html_table((self.path, p.label, f"{p.score:.1%}") for p in self.predictions)


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, and why."""

    path: str
    error: VideoDecodeError
    failed: ClassVar[bool] = True

    def __str__(self) -> str:
        """The path and the reason."""
        return str(self.error)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"path": self.path, "reason": self.error.reason, "error": str(self.error)}

    def _repr_html_(self) -> str:
        """The reason as a table, in a notebook."""
        return html_table([(self.path, self.error.reason, self.error)])


def html_table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells as an HTML table, escaped."""
    from html import escape

    lines = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


@dataclass(repr=False)
class PredictionResult:
    """All predictions of one call; `header` describes the model and the settings.

    Iterating, indexing and `len` are over all videos in their order, those that failed included.

    >>> result = vtcli.predict(["clip.mp4", "missing.mp4"], model="uniformerv2-nano")
    >>> [outcome.failed for outcome in result]
    [False, True]
    >>> result[0].label, len(result)
    ('clockwise', 2)
    """

    header: Mapping[str, Any]
    results: list[VideoPrediction] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    outcomes: list[VideoPrediction | Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outcomes = self.outcomes or [*self.results, *self.failures]

    @classmethod
    def of(
        cls, header: Mapping[str, Any], outcomes: Sequence[VideoPrediction | Failure]
    ) -> PredictionResult:
        """The result with these outcomes, in their order."""
        return cls(
            header,
            [o for o in outcomes if isinstance(o, VideoPrediction)],
            [o for o in outcomes if isinstance(o, Failure)],
            list(outcomes),
        )

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[VideoPrediction | Failure]:
        return iter(self.outcomes)

    def __getitem__(self, number: int) -> VideoPrediction | Failure:
        return self.outcomes[number]

    def __str__(self) -> str:
        """Every video with its classes, or the reason why it could not be read."""
        return "\n".join(map(str, self.outcomes))

    def __repr__(self) -> str:
        return f"PredictionResult({self.header['model']!r}, {self.outcomes!r})"

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
        return html_table(
            (o.path, o.error.reason, o.error)
            if isinstance(o, Failure)
            else (o.path, o.label, f"{o.score:.1%}")
            for o in self.outcomes
        )
