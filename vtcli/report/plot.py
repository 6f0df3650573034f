"""Accuracy against cost as a plot: top-1 over the multiply-accumulates of a whole video.

Points are published accuracies at the published views, against MACs as papers count them. One panel
per dataset, most models first; one color and marker per architecture. Names leave out the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtcli.errors import UsageError
from vtcli.runtime.extras import missing_package
from vtcli.runtime.files import atomic_write, require_place

EXTENSIONS = (".png", ".svg")
LABEL_SIZE = 7  # points
PANEL = (8.0, 6.0)  # inches
MOST_COLUMNS = 2
MARKERS = "osD^vP*X"
NEAR = 7  # points from a marker to its name
HINTED = 1.1  # widest text on a raster, relative to its outline


def check_plot(path: Path) -> None:
    """Check that a plot can be written to this file, before anything is measured.

    Raises `UsageError` for another extension, or where matplotlib is not installed, and `DataError`
    where the folder cannot be written to.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise UsageError(f"{path} is not a plot file; use the extension {' or '.join(EXTENSIONS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(missing_package("plots", "matplotlib", "plot")) from error
    require_place(path)


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
    ordered = sorted(panels.items(), key=lambda panel: -len(panel[1]))
    columns = min(MOST_COLUMNS, len(ordered))
    rows = -(-len(ordered) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(ordered) :]:
        axis.remove()
    architectures = sorted({profile["arch"] for profile in profiles})
    for axis, ((dataset, metric), members) in zip(axes, ordered, strict=False):
        _draw_points(axis, members, architectures)
        axis.set_title(dataset)
        axis.set_ylabel(f"{metric}, percent")
    handles = {label: handle for axis in axes for handle, label in _legend(axis)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    figure.supxlabel("TMACs per video, all views, as papers count them", fontsize="medium")
    figure.draw_without_rendering()  # names are placed in the final layout
    for axis, (_, members) in zip(axes, ordered, strict=False):
        _name_points(axis, members)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150)


def _point(member: Mapping[str, Any]) -> tuple[float, float]:
    """TMACs per video and top-1 in percent."""
    return member["macs_paper"]["per_video"] / 1e12, member["accuracy"]["top1"]


def _draw_points(
    axis: Any, members: Sequence[Mapping[str, Any]], architectures: Sequence[str]
) -> None:
    for number, architecture in enumerate(architectures):
        points = [_point(m) for m in members if m["arch"] == architecture]
        if points:
            marker = MARKERS[number % len(MARKERS)]
            place = zip(*points, strict=True)
            axis.scatter(*place, color=f"C{number}", label=architecture, marker=marker)
    axis.set_xscale("log")
    axis.margins(x=0.15, y=0.1)
    axis.grid(alpha=0.3)


def _legend(axis: Any) -> list[tuple[Any, str]]:
    return list(zip(*axis.get_legend_handles_labels(), strict=True))


def _name(member: Mapping[str, Any]) -> str:
    """Its id without the dataset, and its views."""
    model, _, tag = member["id"].partition(".")
    rest = "-".join(word for word in tag.split("-") if word != member["dataset"])
    return f"{model} {rest} ({member['views']})"


def _name_points(axis: Any, members: Sequence[Mapping[str, Any]]) -> None:
    """A name next to every point, beside, above or below it, where it covers nothing else.

    Coordinates are points (1/72 inch) from the lower left corner of the figure.
    """
    from matplotlib.textpath import TextPath

    pixel = 72 / axis.figure.dpi
    left, right = (edge * pixel for edge in axis.bbox.intervalx)
    at = {m["id"]: axis.transData.transform(_point(m)) * pixel for m in members}
    half = NEAR / 2
    taken = [(x - half, y - half, x + half, y + half) for x, y in at.values()]
    for member in sorted(members, key=lambda m: _point(m)[::-1], reverse=True):
        x, y = at[member["id"]]
        path = TextPath((0, 0), _name(member), size=LABEL_SIZE)
        width = HINTED * path.get_extents().width
        boxes = [
            (start, y + lift - LABEL_SIZE / 2, start + width, y + lift + LABEL_SIZE / 2)
            for lift in _lifts()
            for start in (x + NEAR, x - NEAR - width)
            if left < start and start + width < right
        ]
        box = next((b for b in boxes if not any(_overlap(b, other) for other in taken)), None)
        box = box or (x + NEAR, y - LABEL_SIZE / 2, x + NEAR + width, y + LABEL_SIZE / 2)
        taken.append(box)
        before, lift = box[0] < x, (box[1] + box[3]) / 2 - y
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": "gray", "relpos": (before, 0.5)}
        axis.annotate(
            _name(member),
            _point(member),
            xytext=(-NEAR if before else NEAR, lift),
            textcoords="offset points",
            horizontalalignment="right" if before else "left",
            verticalalignment="center",
            fontsize=LABEL_SIZE,
            arrowprops=line if abs(lift) > LABEL_SIZE else None,
        )


def _lifts() -> list[float]:
    """Heights of a name above its point, in the order of preference."""
    steps = [LABEL_SIZE / 2 * step for step in range(1, 31)]
    return [0.0, *(lift for step in steps for lift in (step, -step))]


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
