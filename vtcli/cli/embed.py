"""`vt embed`: embeddings of videos or of their windows, as a file or as a folder that resumes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vtcli.cli import bulk
from vtcli.cli.next_step import command, print_next
from vtcli.cli.options import (
    DEFAULT_MODEL,
    BatchSizeOption,
    ColumnOption,
    DecoderOption,
    DeviceOption,
    FromFileOption,
    ModelOption,
    PartSizeOption,
    PipelineOption,
    PrecisionOption,
    ShardOption,
    SourcesArgument,
    StrictOption,
    StrideOption,
    TimeoutOption,
    WindowOption,
    WorkersOption,
    file_output_option,
    format_option,
    views_option,
)
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, UsageError
from vtcli.video import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from vtcli.inference.embedding import EmbedSettings
    from vtcli.inference.predictor import PredictSettings


def embed(
    output: Annotated[str, file_output_option("FILE|RUN/")],
    sources: SourcesArgument = None,
    model: ModelOption = DEFAULT_MODEL,
    views: Annotated[str | None, views_option("1x1, the center view")] = None,
    window: WindowOption = None,
    stride: StrideOption = None,
    dtype: Annotated[
        Literal["fp32", "fp16"],
        typer.Option("--dtype", help="Type of the stored numbers; fp16 halves the file."),
    ] = "fp32",
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    decoder: DecoderOption = "auto",
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    strict: StrictOption = False,
    from_file: FromFileOption = None,
    column: ColumnOption = None,
    shard: ShardOption = None,
    part_size: PartSizeOption = 1000,
    retry_failures: bulk.RetryOption = False,
    format: Annotated[
        Literal["parquet", "jsonl"] | None,
        format_option("parquet, or jsonl for a folder without pyarrow"),
    ] = None,
) -> int:
    """Compute embeddings of videos: what the classifier of a model sees, to search and to cluster.

    The file is Parquet or NumPy (.parquet, .npz) with the columns id, path, start,
    end, model_fingerprint and embedding. A video has one embedding, the mean over
    its views, or one per --window. A folder, RUN/, resumes, and several processes
    can share it.
    """
    from vtcli.inference.adaptive import refuse_auto_views
    from vtcli.inference.embedding import EmbeddingMaker, EmbedSettings
    from vtcli.inference.inputs import iter_inputs
    from vtcli.inference.join import RunRequest
    from vtcli.inference.predictor import PredictSettings

    if not sources and from_file is None and not bulk.is_begun(output):
        raise UsageError("there is nothing to embed; name video files or folders")
    refuse_auto_views(views, "an embedding")
    settings = PredictSettings(
        views=views,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        decoder=decoder,
        pipeline=pipeline,
        timeout=timeout,
        strict=strict,
    )
    how = EmbedSettings(*_window_seconds(window, stride), dtype)
    if bulk.is_run_folder(output):
        run = RunRequest(Path(output), model, settings, format, EmbeddingMaker(how))
        request = bulk.BulkRequest(
            run=run,
            sources=tuple(sources or ()),
            from_file=from_file,
            column=column,
            part_size=part_size,
            shard=shard,
            retry_failures=retry_failures,
            command="embed",
        )
        return bulk.run_bulk(request)
    needs_folder = {"--shard": shard, "--retry-failures": retry_failures}
    bulk.refuse_without_folder(needs_folder, os.environ)
    if format is not None:
        raise UsageError("--format is for a folder; leave it out, or end -o with a slash")
    paths = list(iter_inputs(sources or (), from_file, column))
    return _embed_to_file(paths, Path(output), model, settings, how)


def _window_seconds(window: str | None, stride: str | None) -> tuple[float | None, float | None]:
    from vtcli.inference.windows import parse_windows

    if window is None:
        if stride is not None:
            raise UsageError("--stride needs windows; add their length, such as --window 2s")
        return None, None
    return parse_windows(window, stride)


def _embed_to_file(
    paths: Sequence[str], output: Path, model: str, settings: PredictSettings, how: EmbedSettings
) -> int:
    """Embed all videos and write one file; the exit code."""
    from vtcli.cli.progress import fetch_progress, file_progress
    from vtcli.inference.embedding import ClipEmbedding, Embedder
    from vtcli.inference.embeddings_file import check_embeddings_file, write_embeddings
    from vtcli.inference.predictor import Predictor
    from vtcli.inference.results import Failure
    from vtcli.runtime.words import plural

    check_embeddings_file(output)
    clips: list[ClipEmbedding] = []
    failed = 0
    with fetch_progress() as on_download, ExitStack() as opened:
        predictor = opened.enter_context(Predictor(model, settings, on_download=on_download))
        embedder = Embedder(predictor, how)
        advance = opened.enter_context(file_progress(len(paths), to_file=True))
        outcomes = opened.enter_context(closing(embedder.embed(paths)))
        for number, (path, outcome) in enumerate(zip(paths, outcomes, strict=True), 1):
            if isinstance(outcome, Failure):
                failed += 1
                print(f"vt: error: {outcome.error}", file=sys.stderr)
            else:
                clips += outcome
            advance(Path(path).name, number, None)
        if not clips:
            return EXIT_NO_INPUT
        write_embeddings(clips, embedder.file_settings(settings.batch_size, "file"), output)
    line = f"{output}: {plural(len(clips), 'embedding')} of {len(clips[0].values)} features"
    if failed:
        line += f"; {plural(failed, 'video')} could not be read"
    print(line, file=sys.stderr)
    print_next(command("search", paths[0], "--index", output))
    return EXIT_SOME_FAILED if failed else EXIT_OK
