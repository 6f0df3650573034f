"""Fits the rule of events to a run of `vt eval --events` and stores it in the card of a copy.

The card gets under `events` the number of labeled events, the length and stride of the windows, and
the rule (`vtcli.inference.events.EventRule`), which `--events` then uses without being told.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vtcli.errors import DataError
from vtcli.evaluation.event_fit import EventFit, fit_events
from vtcli.evaluation.events import SETTINGS_NAME, EventRun
from vtcli.inference.event_rule import default_rule
from vtcli.runtime.files import file_sha256
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.checkpoint import CARD_KEY, open_tensors, write_checkpoint
from vtcli.weights.resolve import resolve


def is_event_run(folder: Path) -> bool:
    """Whether `vt eval --events` wrote the folder."""
    return (folder / SETTINGS_NAME).is_file()


def calibrate_events(
    folder: Path,
    output: Path,
    model: str | None = None,
    on_download: ProgressCallback | None = None,
) -> EventFit:
    """Write a copy of the run's model with the fitted rule; the tensors are identical.

    model: None for the name in the run. Raises `DataError` for a run of other weights or without
    labeled events, and what `resolve` raises.
    """
    run = EventRun.read(folder)
    name = model or run.settings["model"]
    checkpoint = resolve(name, on_download)
    if file_sha256(checkpoint.path) != run.settings["model_fingerprint"]:
        raise DataError(
            f"{folder} is a run of other weights than {name}; name the model of the run with -m, "
            "or evaluate this one with vt eval --events"
        )
    card = checkpoint.card
    labels = tuple(card.heads[0].labels)
    videos = run.videos()
    if not any(video.events for video in videos):
        raise DataError(f"{folder} has no scores of a video with labeled events; evaluate some")
    if videos[0].scores.shape[1] != len(labels):
        raise DataError(
            f"{folder} is a run with other classes than the model's; evaluate without "
            "--label-set to calibrate"
        )
    fit = fit_events(videos, labels, default_rule(card), run.window)
    table = {
        "samples": sum(len(video.events) for video in videos),
        "window": run.window,
        "stride": run.stride,
        "rule": fit.rule.to_dict(),
    }
    card = replace(card, events=table)
    write_checkpoint(output, open_tensors(checkpoint.path), {CARD_KEY: card.to_json()})
    return fit
