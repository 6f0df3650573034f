"""`vt datasets`: the known datasets, what a dataset holds, whether its videos can be decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vtcli.cli.next_step import command, print_next
from vtcli.cli.options import (
    DATASET_HELP,
    AnnotationsOption,
    DataRootOption,
    FormatOption,
    SeedOption,
    TableFormatOption,
    WorkersOption,
    split_option,
    writable,
)
from vtcli.cli.suggestions import complete_dataset
from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, UsageError

app = typer.Typer(help="List, show, check, export and make datasets.", no_args_is_help=True)

DatasetArgument = Annotated[
    str, typer.Argument(metavar="NAME|PATH", help=DATASET_HELP, autocompletion=complete_dataset)
]
EXPORT_HELP = (
    "Format: manifest, label-studio, fiftyone, cvat, via, createml, videofolder, parquet or "
    "webdataset."
)


@app.command("list")
def list_(
    format: TableFormatOption = "table",
) -> int:
    """List the datasets that are known by name."""
    from vtcli.data.catalog import load_catalog
    from vtcli.report.datasets import print_list
    from vtcli.weights.registry import load_registry

    checkpoints = list(load_registry().checkpoints.values())
    print_list(list(load_catalog().values()), checkpoints, format)
    print_next(command("datasets", "show", "NAME"), format=format)
    return EXIT_OK


@app.command()
def show(
    name: DatasetArgument,
    data_root: DataRootOption = None,
    split: Annotated[str | None, split_option("the one that published results use")] = None,
    annotations: AnnotationsOption = None,
    format: FormatOption = "table",
) -> int:
    """Show the classes, splits and published results of a dataset, and what its files hold.

    The files of a known dataset are read only with --data-root, --split or
    --annotations. No video is decoded.
    """
    from vtcli.cli.progress import working
    from vtcli.data.catalog import known_entry
    from vtcli.data.open import open_dataset
    from vtcli.report.datasets import print_card, print_dataset
    from vtcli.weights.registry import load_registry

    entry = known_entry(name)
    wanted = entry is None or any(value is not None for value in (data_root, split, annotations))
    with working(f"reading {name}"):
        dataset = open_dataset(name, data_root, split, annotations) if wanted else None
    if entry:
        rows = load_registry().checkpoints.values()
        print_card(entry, [r for r in rows if r.dataset == entry.name], dataset, format)
    elif dataset:
        print_dataset(dataset, format)
    print_next(
        command("datasets", "check", name, *_root_option(data_root)),
        command("eval", "--dataset", name, *_root_option(data_root)),
        format=format,
    )
    return EXIT_OK


def _root_option(data_root: Path | None) -> tuple[object, ...]:
    """`--data-root` as it was given."""
    return () if data_root is None else ("--data-root", data_root)


@app.command()
def check(
    name: DatasetArgument,
    data_root: DataRootOption = None,
    splits: Annotated[
        list[str] | None,
        split_option("all", "Split to check. May be repeated."),
    ] = None,
    annotations: AnnotationsOption = None,
    min_frames: Annotated[
        int, typer.Option("--min-frames", min=1, help="Report videos with fewer frames.")
    ] = 2,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.1, help="Seconds without progress after which a decoder is killed."
        ),
    ] = 120.0,
    workers: WorkersOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="CSV", help="Write a manifest of the samples without issues."
        ),
    ] = None,
    format: TableFormatOption = "table",
) -> int:
    """Decode every video; report missing, damaged and short ones, duplicates and split leaks."""
    from vtcli.cli.progress import file_progress, working
    from vtcli.data.check import (
        check_datasets,
        check_manifest,
        lost_classes,
        open_splits,
        write_manifest,
    )
    from vtcli.data.clip_loader import workers_of
    from vtcli.report.checking import print_check

    with working(f"reading {name}") as task:
        datasets = open_splits(name, data_root, splits or (), annotations)
        if output:
            if output.exists() and Path(name).exists() and output.samefile(name):
                raise UsageError(
                    f"{output} is the file to check; write the manifest to another file"
                )
            check_manifest(datasets, output)
        videos = len({sample.path for dataset in datasets for sample in dataset.samples})
        task.say("decoding the videos")
        with file_progress(videos, to_file=True) as progress:
            result = check_datasets(
                datasets,
                workers=workers_of(workers, 1),
                timeout=timeout,
                min_frames=min_frames,
                progress=progress,
            )
    print_check(result, format)
    if output:
        count = write_manifest(result, output)
        typer.echo(f"{output}: {count:,} samples", err=True)
        for label in lost_classes(result):
            typer.echo(f"vt: warning: no sample of class '{label}' is left", err=True)
    if result.issues and not output:
        print_next(
            command("datasets", "check", name, *_root_option(data_root), "-o", "cleaned.csv"),
            format=format,
        )
    else:
        clean = (output,) if output else (name, *_root_option(data_root))
        print_next(command("finetune", "--dataset", *clean, "-o", "runs/mine"), format=format)
    if not result.issues:
        return EXIT_OK
    return EXIT_SOME_FAILED if result.fingerprints else EXIT_NO_INPUT


@app.command()
def export(
    name: DatasetArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="File to write; a new folder for fiftyone and videofolder.",
            callback=writable,
        ),
    ],
    to: Annotated[
        Literal[
            "manifest",
            "label-studio",
            "fiftyone",
            "cvat",
            "via",
            "createml",
            "videofolder",
            "parquet",
            "webdataset",
        ],
        typer.Option("--to", metavar="FORMAT", help=EXPORT_HELP),
    ],
    data_root: DataRootOption = None,
    split: Annotated[str | None, split_option("the one that published results use")] = None,
    annotations: AnnotationsOption = None,
) -> int:
    """Write the labels of a dataset in the format of an annotation tool or a training library.

    Segments are converted between seconds and frames with the video's timestamps.
    fiftyone, videofolder, parquet and webdataset contain copies of the videos.
    """
    from vtcli.cli.progress import working
    from vtcli.data.export import export_dataset
    from vtcli.data.open import open_dataset

    with working(f"reading {name}") as task:
        dataset = open_dataset(name, data_root, split, annotations)
        task.say(f"writing {output}")
        count = export_dataset(dataset, output, to)
    typer.echo(f"{output}: {count:,} samples", err=True)
    print_next(command("datasets", "show", output))
    return EXIT_OK


@app.command()
def make(
    name: Annotated[
        Literal["motion8", "motion8b"],
        typer.Argument(metavar="motion8|motion8b", help="Dataset to make."),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="New or empty folder to fill; an equal dataset in it is kept."
        ),
    ],
    train: Annotated[
        int, typer.Option("--train", help="Number of training clips, of all classes together.")
    ] = 4000,
    val: Annotated[int, typer.Option("--val", help="Number of validation clips.")] = 400,
    test: Annotated[int, typer.Option("--test", help="Number of test clips.")] = 800,
    size: Annotated[int, typer.Option("--size", help="Height and width in pixels.")] = 80,
    frames: Annotated[
        int, typer.Option("--frames", help="Frames per clip, at 15 frames per second.")
    ] = 24,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
) -> int:
    """Make a synthetic dataset of eight motions that no single frame tells apart.

    motion8 has left, right, up, down, approach, recede, clockwise and
    counter-clockwise; the small models of vt know these. motion8b has zig-zag,
    orbit, bounce, shake, grow-shrink, wobble, spiral and stop-and-go.
    """
    from vtcli.cli.progress import file_progress, working
    from vtcli.data.clip_loader import workers_of
    from vtcli.synthetic.families import FAMILIES
    from vtcli.synthetic.make import make_dataset

    with (
        working(f"making {name}"),
        file_progress(train + val + test, to_file=True) as progress,
    ):
        made = make_dataset(
            folder,
            FAMILIES[name],
            clips={"train": train, "val": val, "test": test},
            seed=seed,
            size=size,
            frames=frames,
            workers=workers_of(workers, 1),
            progress=progress,
        )
    typer.echo(made)
    nano = ("-m", "uniformerv2-nano")
    if train:
        print_next(command("finetune", "--dataset", made, *nano, "-o", f"runs/{name}"))
    elif name == "motion8":
        print_next(command("eval", "--dataset", name, "--data-root", made, *nano))
    else:
        print_next(command("datasets", "show", made))
    return EXIT_OK
