"""Accuracy against cost as a plot: top-1 over the multiply-accumulates of a whole video.

Points are published accuracies at the published views, against MACs as papers count them. One panel
per dataset, one color per architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtcli.errors import DataError, UsageError
from vtcli.runtime.extras import missing_package

EXTENSIONS = (".png", ".svg")
LABEL_SIZE = 6  # points


def check_plot(path: Path) -> None:
    """Check that a plot can be written to this file, before anything is measured.

    Raises `UsageError` for another extension, or where matplotlib is not installed.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise UsageError(f"{path} is not a plot file; use the extension {' or '.join(EXTENSIONS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(missing_package("plots", "matplotlib", "plot")) from error


def draw_accuracy(path: Path, profiles: Sequence[Mapping[str, Any]]) -> None:
    """Plot the profiles that have a published accuracy and a count as papers make it.

    Raises `UsageError` where there is none, `DataError` where the file cannot be written.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for profile in profiles:
        accuracy = profile["accuracy"]
        if accuracy["top1"] is not None and profile["macs_paper"]["per_video"]:
            panels.setdefault((profile["dataset"], accuracy["metric"]), []).append(profile)
    if not panels:
        raise UsageError("none of these models has a published accuracy to plot; choose others")
    figure = Figure(figsize=(10, 6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    architectures = sorted({profile["arch"] for profile in profiles})
    for axis, ((dataset, metric), members) in zip(axes, panels.items(), strict=True):
        _draw_points(axis, members, architectures)
        axis.set_title(dataset)
        axis.set_ylabel(f"{metric}, percent")
    figure.draw_without_rendering()  # labels are placed in the final layout
    for axis, members in zip(axes, panels.values(), strict=True):
        _label_points(axis, members)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _point(member: Mapping[str, Any]) -> tuple[float, float]:
    """TMACs per video and top-1 in percent."""
    return member["macs_paper"]["per_video"] / 1e12, member["accuracy"]["top1"]


def _draw_points(
    axis: Any, members: Sequence[Mapping[str, Any]], architectures: Sequence[str]
) -> None:
    for number, architecture in enumerate(architectures):
        points = [_point(m) for m in members if m["arch"] == architecture]
        if points:
            axis.scatter(*zip(*points, strict=True), color=f"C{number}", label=architecture)
    axis.set_xscale("log")
    axis.margins(x=0.1, y=0.1)
    axis.set_xlabel("TMACs per video, all views, as papers count them")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")


def _label_points(axis: Any, members: Sequence[Mapping[str, Any]]) -> None:
    """A name next to every point, on its inner side, lowered until it overlaps no other name."""
    pixel = 72 / axis.figure.dpi  # in points
    center = sum(axis.bbox.intervalx) / 2
    taken: list[tuple[float, float, float]] = []
    for member in sorted(members, key=lambda m: _point(m)[::-1], reverse=True):
        x, y = axis.transData.transform(_point(member)) * pixel
        name = f"{member['id']} ({member['views']})"
        width, left = 0.6 * LABEL_SIZE * len(name), x > center * pixel
        start = x - width if left else x
        lowered = y
        while any(
            start < end and begin < start + width and abs(lowered - line) < LABEL_SIZE
            for begin, end, line in taken
        ):
            lowered -= LABEL_SIZE / 2
        taken.append((start, start + width, lowered))
        axis.annotate(
            name,
            _point(member),
            xytext=(-5 if left else 5, lowered - y),
            textcoords="offset points",
            horizontalalignment="right" if left else "left",
            verticalalignment="center",
            fontsize=LABEL_SIZE,
        )
