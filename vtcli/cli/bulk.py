"""`vt predict` and `vt embed` with `-o RUN/`: any number of videos into a folder that resumes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vtcli.cli.options import BULK, retry_failures_option
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from vtcli.inference.bulk import BulkStatus
    from vtcli.inference.join import RunRequest
    from vtcli.inference.run_store import RunStore
    from vtcli.inference.selection import Shard

RowFormatName = Literal["parquet", "jsonl"]
EngineName = Literal["local", "ray"]

EngineOption = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="Work in this process, or in one Ray actor per device.",
        rich_help_panel=BULK,
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="Ray cluster to work on: `auto`, or HOST:PORT.",
        show_default="a Ray of its own on this machine",
        rich_help_panel=BULK,
    ),
]
RetryOption = Annotated[bool, retry_failures_option(BULK)]
KeepLogitsOption = Annotated[
    bool,
    typer.Option(
        "--keep-logits",
        help="Also store the logits of all classes, in half precision.",
        rich_help_panel=BULK,
    ),
]
StatusOption = Annotated[
    Path | None,
    typer.Option(
        "--status", metavar="RUN", help="Print how far a run is, and exit.", rich_help_panel=BULK
    ),
]


@dataclass(frozen=True)
class BulkRequest:
    """A parsed command line."""

    run: RunRequest
    sources: tuple[str, ...]
    from_file: Path | None
    column: str | None
    part_size: int
    shard: str | None
    retry_failures: bool = False
    engine: EngineName = "local"
    ray_address: str | None = None
    command: str = "predict"

    def __post_init__(self) -> None:
        if self.engine == "local" and self.ray_address is not None:
            raise UsageError("--ray-address is for Ray; add --engine ray")
        if self.engine == "ray" and self.shard is not None:
            raise UsageError("--engine ray shares the parts itself; leave out --shard")

    def listing(self) -> str:
        """Equal in processes that list the same inputs; "" where they read standard input."""
        listed = json.dumps([os.getcwd(), self.sources, str(self.from_file), self.column])
        return "" if "-" in self.sources else listed


def is_run_folder(output: str | None) -> bool:
    """Whether -o names a folder: it ends with a separator, or is one."""
    return bool(output) and (str(output).endswith(("/", os.sep)) or os.path.isdir(str(output)))


def is_begun(output: str | None) -> bool:
    """Whether -o names the folder of a run, whose inputs need not be named again."""
    return is_run_folder(output) and Path(str(output), "_vt", "run.json").exists()


def row_format_of(format: str | None) -> RowFormatName | None:
    """The format of the rows; raises `UsageError` for one that a folder cannot hold."""
    if format not in (None, "parquet", "jsonl"):
        raise UsageError(f"a folder holds parquet or jsonl, not {format}; name a file with -o")
    return "parquet" if format == "parquet" else "jsonl" if format == "jsonl" else None


def refuse_without_folder(given: Mapping[str, object], environment: Mapping[str, str]) -> None:
    """Raise `UsageError` for options and launchers that need a folder to write to."""
    torchrun = int(environment.get("WORLD_SIZE", "1")) > 1 and "RANK" in environment
    for name, value in {**given, "torchrun": torchrun}.items():
        if value:
            raise UsageError(f"{name} needs a folder that is written to; add -o RUN/")


def run_bulk(request: BulkRequest) -> int:
    """Work on the run until it is done; the exit code."""
    from vtcli.cli.next_step import command, print_next
    from vtcli.inference.bulk import read_status

    work = _work_on_ray if request.engine == "ray" else _work_here
    store, worked = work(request)
    if not worked.is_main_process:
        return EXIT_OK
    folder, status = request.run.folder, read_status(store)
    if not worked.anything:
        print(f"vt: note: {folder} is complete, nothing to do", file=sys.stderr)
    for line in _status_lines(folder, store.read_settings(), status):
        print(line, file=sys.stderr)
    # A begun run knows its inputs.
    again = command(
        request.command, "-m", request.run.model, "-o", f"{folder}/", "--retry-failures"
    )
    check = command("predict", "--status", folder, "--format", "json")
    print_next(*([again] if any(status.failed.values()) else []), check)
    return _exit_code(status)


@dataclass(frozen=True)
class _Worked:
    """Whether this process did anything, and whether it reports."""

    anything: bool
    is_main_process: bool = True


def _work_here(request: BulkRequest) -> tuple[RunStore, _Worked]:
    from vtcli.cli.progress import bulk_progress, fetch_progress, working
    from vtcli.data.clip_loader import workers_of
    from vtcli.inference.bulk import retry_failures, run_parts
    from vtcli.inference.inputs import describe_all, iter_inputs
    from vtcli.inference.join import join_run
    from vtcli.runtime.distributed import process_group

    shard = parse_shard(request.shard, os.environ)
    inputs = iter_inputs(request.sources, request.from_file, request.column)
    with process_group() as group, working(f"loading {request.run.model}") as task:
        settings = request.run.settings
        settings = replace(
            settings,
            device=group.device(settings.device),
            workers=workers_of(settings.workers, group.local_size),
        )
        with fetch_progress() as on_download:
            run = join_run(replace(request.run, settings=settings), on_download)
        task.say("listing the videos")
        added = group.run_on_main(
            lambda: run.store.add_inputs(describe_all(inputs), request.part_size, request.listing())
        )
    # From here on each process takes parts that no other has; none waits for another.
    with run.predictor, bulk_progress() as advance:
        progress = run_parts(run.store, run.rows, run.write, shard, advance)
        if request.retry_failures:
            retry_failures(run.store, run.rows, run.write, shard)
    anything = bool(added or progress.computed or request.retry_failures)
    return run.store, _Worked(anything, group.is_main_process)


def _work_on_ray(request: BulkRequest) -> tuple[RunStore, _Worked]:
    from vtcli.cli.progress import bulk_progress
    from vtcli.inference.inputs import iter_inputs
    from vtcli.inference.predictor import Predictor
    from vtcli.inference.ray_engine import RayJob, run_on_ray

    inputs = iter_inputs(request.sources, request.from_file, request.column)
    Predictor(request.run.model, request.run.settings)  # refuses an unknown model at once
    job = RayJob(request.run, request.part_size, request.ray_address, request.retry_failures)
    with bulk_progress() as advance:
        store, progress = run_on_ray(
            job, inputs, advance, lambda note: print(f"vt: note: {note}", file=sys.stderr)
        )
    return store, _Worked(bool(progress.computed or request.retry_failures))


def print_status(folder: Path, as_json: bool) -> int:
    """What a run has done, while it runs or after; the exit code of the run so far."""
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
    from vtcli.inference.selection import WHOLE, Shard

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
