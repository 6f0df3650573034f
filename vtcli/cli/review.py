"""`vt review`: the videos of an evaluation that a human should look at again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtcli.cli.next_step import command, print_next
from vtcli.cli.options import WorkersOption, file_output_option, run_argument
from vtcli.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.evaluation.thumbnails import FrameStrip
    from vtcli.training.review import Review

EXTENSIONS = (".html", ".json")


def review(
    run: Annotated[Path, run_argument("RUN")],
    output: Annotated[Path, file_output_option("FILE.html|FILE.json")],
    most: Annotated[
        int, typer.Option("--most", min=1, help="Videos of each kind, the most urgent first.")
    ] = 20,
    workers: WorkersOption = None,
) -> int:
    """Find the videos that a human should look at: labels that may be wrong, and hard cases.

    Suspected label errors (by cross-validation), near-duplicates with different
    labels, views that disagree, uncertain predictions. Writes a page with
    thumbnails (.html) or pre-annotations for Label Studio (.json).
    """
    from vtcli.data.clip_loader import workers_of
    from vtcli.evaluation.run_directory import RunDirectory
    from vtcli.report.pages import write_page
    from vtcli.report.review import label_studio_tasks, review_page
    from vtcli.runtime.files import atomic_write
    from vtcli.training.review import TITLES, review_run

    if output.suffix.lower() not in EXTENSIONS:
        raise UsageError(f"{output} is not a page or JSON; use the extension .html or .json")
    directory = RunDirectory(run)
    found = review_run(directory, most, workers_of(workers, 1) or 1)
    for note in found.notes:
        print(f"vt: note: {note}", file=sys.stderr)
    if output.suffix.lower() == ".html":
        write_page(review_page(found, _strips(found, directory)), output)
    else:
        tasks = label_studio_tasks(found, output.absolute().parent)
        with atomic_write(output) as part:
            part.write_text(json.dumps(tasks, indent=1) + "\n", encoding="utf-8")
    counts = [f"{len(found.of_kind(kind))} {kind}" for kind in TITLES]
    print(f"{output}: {', '.join(counts)}", file=sys.stderr)
    again = command("finetune", "--dataset", "DATASET", "-m", "MODEL", "-o", "RUN")
    print_next(f"{again}  # when labels are corrected")
    return EXIT_OK


def _strips(found: Review, directory: RunDirectory) -> dict[str, FrameStrip]:
    """The frames of the videos to look at, by path."""
    from vtcli.cli.progress import working
    from vtcli.data.clip_loader import ClipReader
    from vtcli.data.samples import Sample
    from vtcli.evaluation.aggregate import stored_protocol
    from vtcli.evaluation.thumbnails import frame_strips

    reader = ClipReader(stored_protocol(directory.info).pipeline, 1, 1)
    paths = (found.paths[item.row] for item in found.items)
    with working("reading the frames to show", "videos") as task:
        samples = {path: Sample(path, Path(path)) for path in paths}
        return frame_strips(reader, samples, task.update)
