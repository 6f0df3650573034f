"""A review as a page with thumbnails, and as pre-annotations of Label Studio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vtcli.data.export.clips import listed_path
from vtcli.evaluation.thumbnails import FrameStrip
from vtcli.report.pages import render_page, strip_frames
from vtcli.runtime.words import plural
from vtcli.training.review import TITLES, Review


def review_page(review: Review, strips: Mapping[str, FrameStrip]) -> str:
    """The page; `strips` are the frames of the videos by path."""
    sections = [
        {
            "kind": kind,
            "title": title,
            "rows": [
                {
                    "detail": item.detail,
                    "path": review.paths[item.row],
                    "frames": strip_frames(*strips.get(review.paths[item.row], FrameStrip())),
                }
                for item in review.of_kind(kind)
            ],
        }
        for kind, title in TITLES.items()
    ]
    return render_page(
        "review.html.j2",
        title=f"Review of {review.dataset}",
        lead=f"{plural(len(review.paths), 'video')}, predicted by {review.model}",
        notes=review.notes,
        sections=sections,
    )


def label_studio_tasks(review: Review, folder: Path) -> list[dict[str, Any]]:
    """One task per video, the most urgent first: the label as annotation, the prediction as
    pre-annotation, and the reasons under `data.review`.

    Paths are relative to `folder`, which is to be LOCAL_FILES_DOCUMENT_ROOT.
    """
    reasons: dict[int, list[str]] = {}
    for item in review.items:
        reasons.setdefault(item.row, []).append(f"{TITLES[item.kind]}: {item.detail}")
    tasks = []
    for number, (row, why) in enumerate(reasons.items(), 1):
        listed = quote(listed_path(Path(review.paths[row]), folder).lstrip("/"))
        tasks.append(
            {
                "id": number,
                "data": {"video": f"/data/local-files/?d={listed}", "review": "\n".join(why)},
                "annotations": [{"id": number, "result": [_choice(review.labels[row], number)]}],
                "predictions": [
                    {
                        "model_version": review.model,
                        "score": round(review.scores[row], 6),
                        "result": [_choice(review.predicted[row], number)],
                    }
                ],
            }
        )
    return tasks


def _choice(label: str, number: int) -> dict[str, Any]:
    names = {"id": f"{number}-0", "from_name": "action", "to_name": "video", "type": "choices"}
    return {**names, "value": {"choices": [label]}}
