"""`vt search`: the nearest clips to a video, a class or a vector among embeddings."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from vtcli.cli.next_step import command, print_next
from vtcli.cli.options import (
    BY_EXTENSION,
    DeviceOption,
    format_of,
    format_option,
    model_option,
    output_option,
)
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED

if TYPE_CHECKING:
    from vtcli.evaluation.thumbnails import FrameStrip
    from vtcli.inference.embeddings_file import Embeddings
    from vtcli.inference.search import SearchResult
    from vtcli.report.search import Place
    from vtcli.video.pipeline import Pipeline

Format = Literal["table", "json", "csv", "html"]


def search(
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY...",
            help="Videos or folders of them, names of classes, .npy vectors, files of `vt embed`.",
            show_default=False,
        ),
    ],
    index: Annotated[
        Path,
        typer.Option(
            "--index", metavar="FILE|RUN", help="Embeddings to search, made by `vt embed`."
        ),
    ],
    topk: Annotated[int, typer.Option("--topk", "-k", min=1, help="Number of clips to find.")] = 10,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="PATH",
            help="Labels of the videos: an annotation file or a folder of class folders.",
            show_default="the index's column label",
        ),
    ] = None,
    classify: Annotated[
        bool,
        typer.Option("--classify", help="Also classify by a vote of the nearest labeled clips."),
    ] = False,
    model: Annotated[str | None, model_option("the model of the index")] = None,
    device: DeviceOption = "auto",
    format: Annotated[Format | None, format_option(BY_EXTENSION)] = None,
    output: Annotated[Path | None, output_option("FILE")] = None,
) -> int:
    """Find the clips nearest to a video or a class by cosine similarity, and classify by them.

    Clips of the query's own video are left out. With -o sheet.html, write a
    page that shows the frames of each clip.
    """
    from vtcli.cli.progress import fetch_progress
    from vtcli.inference.embeddings_file import read_embeddings
    from vtcli.inference.queries import QueryReader, with_labels
    from vtcli.inference.results import Failure
    from vtcli.inference.search import search as find
    from vtcli.report.predictions import open_output
    from vtcli.report.search import SearchReport

    chosen = format or format_of(output, get_args(Format))
    embeddings = read_embeddings(index)
    if labels is not None:
        embeddings = with_labels(embeddings, labels)
        _log_unlabeled(embeddings, labels)
    with fetch_progress() as on_download:
        reader = QueryReader(embeddings, str(index), model, device, on_download)
        with closing(reader):
            found = reader.read(queries)
    failures = [query for query in found if isinstance(query, Failure)]
    for failure in failures:
        print(f"vt: error: {failure.error}", file=sys.stderr)
    wanted = [query for query in found if not isinstance(query, Failure)]
    results = find(embeddings, wanted, topk, classify)
    for result in results:
        if not result.matches:
            print(
                f"vt: note: {index} has no clip other than {result.query.path} itself; embed more "
                "videos",
                file=sys.stderr,
            )
    report = SearchReport(embeddings, str(index), results, failures)
    text = ""
    if chosen == "html" and results:
        text = report.contact_sheet(_strips(embeddings, results, reader.pipeline))
    if results or chosen != "html":
        with open_output(output) as stream:
            if chosen == "html":
                # HTML has no form for the bytes of a path that is not UTF-8.
                stream.write(text.encode("utf-8", "replace").decode())
            else:
                report.write(chosen, stream)
    if output is None and results:
        print_next(
            command("search", *queries, "--index", index, "-o", "sheet.html") + "  # with pictures",
            format=chosen,
        )
    if not failures:
        return EXIT_OK
    return EXIT_SOME_FAILED if results else EXIT_NO_INPUT


def _log_unlabeled(embeddings: Embeddings, labels: Path) -> None:
    missing = sum(not label for label in embeddings.labels)
    if missing:
        print(
            f"vt: note: {missing:,} of {len(embeddings):,} embeddings are of videos that {labels} "
            "does not have",
            file=sys.stderr,
        )


def _strips(
    embeddings: Embeddings, results: Sequence[SearchResult], pipeline: Pipeline | None
) -> Mapping[Place, FrameStrip]:
    """The frames of the queries' videos and of all matches, by path, start and end in seconds."""
    from vtcli.cli.progress import working
    from vtcli.data.clip_loader import ClipReader
    from vtcli.data.samples import Sample
    from vtcli.evaluation.thumbnails import frame_strips
    from vtcli.report.search import place_of
    from vtcli.runtime.words import plural

    if pipeline is None:
        print("vt: note: add -m MODEL for the frames that it sees", file=sys.stderr)
        return {}
    reader = ClipReader(pipeline, 1, 1)
    places: list[Place] = [(r.query.path, None, None) for r in results if r.query.path]
    places += [place_of(embeddings, match.row) for result in results for match in result.matches]
    samples = {
        (path, start, end): Sample(path, Path(path), start=start, end=end)
        for path, start, end in places
    }
    with working("reading the frames to show", "videos") as task:
        strips = frame_strips(reader, samples, task.update)
    if missing := sum(not strip.frames for strip in strips.values()):
        print(f"vt: note: {plural(missing, 'video')} cannot be shown", file=sys.stderr)
    return strips
