"""`vt predict SOURCE... -o RUN/`: any number of videos into a folder of parts that resumes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from vtcli.inference.bulk import BulkStatus
    from vtcli.inference.predictor import Predictor, PredictSettings
    from vtcli.inference.run_store import RunStore, Shard
    from vtcli.runtime.distributed import Group

RowFormatName = Literal["parquet", "jsonl"]


@dataclass(frozen=True)
class BulkRequest:
    """A parsed command line."""

    folder: Path
    sources: tuple[str, ...]
    from_file: Path | None
    column: str | None
    model: str
    settings: PredictSettings
    row_format: RowFormatName | None
    part_size: int
    shard: str | None
    retry_failures: bool
    keep_logits: bool


def is_run_folder(output: str | None) -> bool:
    """Whether -o names a folder: it ends with a separator, or is one."""
    return bool(output) and (str(output).endswith(("/", os.sep)) or os.path.isdir(str(output)))


def row_format_of(format: str | None) -> RowFormatName | None:
    """The format of the rows; raises `UsageError` for one that a folder cannot hold."""
    if format not in (None, "parquet", "jsonl"):
        raise UsageError(f"a folder holds parquet or jsonl, not {format}; name a file with -o")
    return "parquet" if format == "parquet" else "jsonl" if format == "jsonl" else None


def refuse_without_folder(
    shard: str | None, retry_failures: bool, keep_logits: bool, environment: Mapping[str, str]
) -> None:
    """Raise `UsageError` for options and launchers that need a folder to write to."""
    given = {
        "--shard": shard is not None,
        "--retry-failures": retry_failures,
        "--keep-logits": keep_logits,
        "torchrun": int(environment.get("WORLD_SIZE", "1")) > 1 and "RANK" in environment,
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{name} needs a folder that is written to; add -o RUN/")


def run_bulk(request: BulkRequest) -> int:
    """Work on the run until it is done; the exit code."""
    from vtcli.cli.progress import bulk_progress
    from vtcli.inference.bulk import read_status, retry_failures, run_parts
    from vtcli.inference.inputs import describe_all
    from vtcli.inference.rows import RowPredictor
    from vtcli.runtime.distributed import process_group
    from vtcli.runtime.rows import writer_of

    shard = parse_shard(request.shard, os.environ)
    with process_group() as group:
        predictor, store, chosen = _join(request, group)
        paths = describe_all(_inputs(request))
        added = group.run_on_main(lambda: store.add_inputs(paths, request.part_size))
    # From here on each process takes parts that no other has; none waits for another.
    with predictor, bulk_progress() as advance:
        rows = RowPredictor(predictor, chosen, request.keep_logits)
        write = writer_of(chosen["row_format"])
        progress = run_parts(store, rows, write, shard, advance)
        if request.retry_failures:
            retry_failures(store, rows, write, shard)
    if not group.is_main_process:
        return EXIT_OK
    status = read_status(store)
    if not (added or progress.computed or request.retry_failures):
        print(f"vt: note: {request.folder} is complete, nothing to do", file=sys.stderr)
    for line in _status_lines(request.folder, chosen, status):
        print(line, file=sys.stderr)
    return _exit_code(status)


def print_status(folder: Path, as_json: bool) -> int:
    """What a run has done, while it runs or after; the exit code of the run so far."""
    import json

    from vtcli.inference.bulk import read_status
    from vtcli.inference.run_store import RunStore

    store = RunStore(folder, "")
    settings = store.read_settings()
    store.extension = settings["row_format"]
    status = read_status(store)
    if as_json:
        print(json.dumps({"model": settings["model"], **status.to_dict()}, indent=1))
    else:
        print("\n".join(_status_lines(folder, settings, status)))
    return EXIT_OK


def parse_shard(text: str | None, environment: Mapping[str, str]) -> Shard:
    """`I/N`, counted from 0, or `slurm`: the task of a job array; None: everything.

    Raises `UsageError` for anything else.
    """
    from vtcli.inference.run_store import WHOLE, Shard

    if text is None:
        return WHOLE
    if text == "slurm":
        try:
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
            index = int(environment["SLURM_ARRAY_TASK_ID"]) - first
            return Shard(index, int(environment["SLURM_ARRAY_TASK_COUNT"]))
        except (KeyError, ValueError) as error:
            raise UsageError(
                "--shard slurm needs a Slurm job array (sbatch --array=0-7); elsewhere write "
                "--shard I/N, such as --shard 0/8"
            ) from error
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise UsageError(
            f"--shard is I/N with I from 0 to N-1, such as 0/8, or slurm, not '{text}'"
        )
    return Shard(int(match[1]), int(match[2]))


def _join(request: BulkRequest, group: Group) -> tuple[Predictor, RunStore, dict[str, Any]]:
    """Begin the run, or join it: what was chosen for it automatically is taken from it."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.inference.predictor import Predictor
    from vtcli.inference.rows import run_settings
    from vtcli.inference.run_store import RunStore
    from vtcli.runtime.rows import EXTENSIONS, writer_of

    store = RunStore(request.folder, "")
    earlier = store.read_settings() if store.exists() else {}
    row_format = request.row_format or earlier.get("row_format") or _default_format()
    writer_of(row_format)  # raises before anything is computed where a library is missing
    asked = request.settings
    settings = replace(
        asked,
        device=group.device(asked.device),
        precision=earlier.get("precision", "auto")
        if asked.precision == "auto"
        else asked.precision,
        batch_size=asked.batch_size or earlier.get("batch_size"),
    )
    with fetch_progress() as on_download:
        predictor = Predictor(request.model, settings, on_download=on_download)
        _ = predictor.net
    size = predictor.auto_batch_size()
    chosen = store.open(run_settings(predictor, size, row_format))
    store.extension = EXTENSIONS[chosen["row_format"]]
    return predictor, store, chosen


def _inputs(request: BulkRequest) -> Iterator[str]:
    from vtcli.inference.inputs import iter_list, iter_videos

    yield from iter_videos(request.sources)
    if request.from_file is not None:
        yield from iter_list(request.from_file, request.column)


def _default_format() -> RowFormatName:
    from importlib.util import find_spec

    return "parquet" if find_spec("pyarrow") else "jsonl"


def _status_lines(folder: Path, settings: Mapping[str, Any], status: BulkStatus) -> Iterable[str]:
    from vtcli.runtime.words import plural

    failed = sum(status.failed.values())
    yield f"{folder}: {settings['model']}, {settings['precision']}, batch {settings['batch_size']}"
    yield (
        f"  {status.done:,} of {plural(status.total, 'video')} done, {failed:,} of them failed; "
        f"{status.parts_done} of {plural(status.parts, 'part')} complete"
    )
    if status.failed:
        reasons = sorted(status.failed.items(), key=lambda item: -item[1])
        yield "  failed: " + ", ".join(f"{reason} {count:,}" for reason, count in reasons)
    if status.done < status.total and status.rate and status.remaining_seconds is not None:
        minutes = status.remaining_seconds / 60
        yield f"  {status.rate:.1f} videos/s, about {minutes:.0f} min left"


def _exit_code(status: BulkStatus) -> int:
    failed = sum(status.failed.values())
    if not failed:
        return EXIT_OK
    return EXIT_NO_INPUT if failed == status.done else EXIT_SOME_FAILED
