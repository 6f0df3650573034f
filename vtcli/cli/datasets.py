"""`vt datasets`: which datasets are known, what one looks like, what an annotation file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vtcli.errors import EXIT_NO_INPUT, EXIT_OK, EXIT_SOME_FAILED, UsageError

app = typer.Typer(help="List and show datasets, check them, make one.", no_args_is_help=True)

DatasetArgument = Annotated[
    str, typer.Argument(metavar="NAME|PATH", help="A known dataset, a folder or an annotation.")
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Where the videos are.",
        show_default="$VT_DATA/NAME, or the annotation's own folder",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="train, validation, test; 1, 2, 3 for UCF101 and HMDB51.",
        show_default="the one that is meant for testing",
    ),
]
AnnotationsOption = Annotated[
    str | None,
    typer.Option(
        "--annotations",
        metavar="FORMAT",
        help="Read the annotation as this format.",
        show_default="found out",
    ),
]


@app.command("list")
def list_(
    format: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", help="How to print.")
    ] = "table",
) -> int:
    """List the datasets that are known by name."""
    from vtcli.data.catalog import load_catalog
    from vtcli.report.datasets import print_list
    from vtcli.weights.registry import load_registry

    checkpoints = list(load_registry().checkpoints.values())
    print_list(list(load_catalog().values()), checkpoints, format)
    return EXIT_OK


@app.command()
def show(
    name: DatasetArgument,
    data_root: DataRootOption = None,
    split: SplitOption = None,
    annotations: AnnotationsOption = None,
    format: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to print.")
    ] = "table",
) -> int:
    """Show what is known of a dataset, and what its annotation holds.

    A known dataset is read only with --data-root, --split or --annotations; nothing is decoded.
    """
    from vtcli.data.catalog import known_entry
    from vtcli.data.open import open_dataset
    from vtcli.report.datasets import print_card, print_dataset
    from vtcli.weights.registry import load_registry

    entry = known_entry(name)
    wanted = entry is None or any(value is not None for value in (data_root, split, annotations))
    dataset = open_dataset(name, data_root, split, annotations) if wanted else None
    if entry:
        rows = load_registry().checkpoints.values()
        print_card(entry, [r for r in rows if r.dataset == entry.name], dataset, format)
    elif dataset:
        print_dataset(dataset, format)
    return EXIT_OK


@app.command()
def check(
    name: DatasetArgument,
    data_root: DataRootOption = None,
    splits: Annotated[
        list[str] | None,
        typer.Option("--split", help="A split; may be repeated.", show_default="all there are"),
    ] = None,
    annotations: AnnotationsOption = None,
    min_frames: Annotated[
        int, typer.Option("--min-frames", min=1, help="Fewer frames are a problem.")
    ] = 2,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.1, help="Seconds after which a silent decoder is killed."),
    ] = 120.0,
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=1, help="Processes that decode videos.")
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="CSV", help="Write a manifest of the samples without fault."
        ),
    ] = None,
    format: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", help="How to print.")
    ] = "table",
) -> int:
    """Decode every video; find what is missing, damaged, short, there twice or in two splits."""
    from vtcli.cli.progress import file_progress
    from vtcli.data.check import (
        check_datasets,
        check_manifest,
        lost_classes,
        open_splits,
        write_manifest,
    )
    from vtcli.report.checking import print_check

    datasets = open_splits(name, data_root, splits or (), annotations)
    if output:
        if output.exists() and Path(name).exists() and output.samefile(name):
            raise UsageError(f"{output} is what is checked; write the manifest to another file")
        check_manifest(datasets, output)
    videos = len({sample.path for dataset in datasets for sample in dataset.samples})
    with file_progress(videos, to_file=True) as progress:
        result = check_datasets(
            datasets, workers=workers, timeout=timeout, min_frames=min_frames, progress=progress
        )
    print_check(result, format)
    if output:
        count = write_manifest(result, output)
        typer.echo(f"{output}: {count:,} samples", err=True)
        for label in lost_classes(result):
            typer.echo(f"vt: warning: no sample of class '{label}' is left", err=True)
    if not result.issues:
        return EXIT_OK
    return EXIT_SOME_FAILED if result.fingerprints else EXIT_NO_INPUT


@app.command()
def make(
    name: Annotated[Literal["motion8"], typer.Argument(metavar="motion8", help="Which one.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    train: Annotated[
        int, typer.Option("--train", help="Clips to train on, of all classes.")
    ] = 4000,
    val: Annotated[int, typer.Option("--val", help="Clips to validate on.")] = 400,
    test: Annotated[int, typer.Option("--test", help="Clips to test on.")] = 800,
    size: Annotated[int, typer.Option("--size", help="Height and width in pixels.")] = 80,
    frames: Annotated[int, typer.Option("--frames", help="Frames per clip, 15 a second.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Another seed makes other clips.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=1, help="Processes that write clips.")
    ] = 1,
) -> int:
    """Make a dataset: Motion-8, short clips of eight motions that no single frame tells apart."""
    from vtcli.cli.progress import file_progress
    from vtcli.synthetic.motion8 import make_motion8

    with file_progress(train + val + test, to_file=True) as progress:
        made = make_motion8(
            folder,
            clips={"train": train, "val": val, "test": test},
            seed=seed,
            size=size,
            frames=frames,
            workers=workers,
            progress=progress,
        )
    typer.echo(made)
    return EXIT_OK
