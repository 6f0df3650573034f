"""`vt models`: what checkpoints there are, what one is, on_download one, publishing one."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vtcli.errors import EXIT_OK, UsageError

app = typer.Typer(help="List, show, fetch and push checkpoints.", no_args_is_help=True)

ListFormat = Literal["table", "json", "csv"]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A checkpoint id or alias.")]


@app.command("list")
def list_(
    pattern: Annotated[
        str, typer.Argument(metavar="[PATTERN]", help="A shell pattern on ids and models.")
    ] = "*",
    arch: Annotated[str | None, typer.Option("--arch", help="Only this architecture.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this dataset.")] = None,
    available: Annotated[
        bool, typer.Option("--available", help="Only those with a source that may still answer.")
    ] = False,
    format: Annotated[ListFormat, typer.Option("--format", help="How to print.")] = "table",
) -> int:
    """List checkpoints: what they were trained on, what they score, whether they can be had."""
    from vtcli.report.models import print_list
    from vtcli.weights.registry import load_registry

    registry = load_registry()
    rows = [
        row
        for row in registry.match(pattern)
        if (arch is None or row.arch == arch)
        and (dataset is None or row.dataset == dataset)
        and (row.available or not available)
    ]
    if not rows and format == "table":
        raise UsageError("no checkpoint fits; `vt models list` shows all of them")
    print_list(rows, registry, format)
    return EXIT_OK


@app.command()
def show(
    name: IdArgument,
    format: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to print.")
    ] = "table",
) -> int:
    """Show all that is known of one checkpoint."""
    from vtcli.report.models import print_card
    from vtcli.weights.registry import bundled_path, load_registry
    from vtcli.weights.resolve import cached_path

    row = load_registry().find(name)
    cached = bundled_path(row) or cached_path(row)
    print_card(row, cached if cached.is_file() else None, format)
    return EXIT_OK


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="ID", help="Checkpoint ids or aliases.")],
) -> int:
    """Fetch and convert checkpoints now, so that they are there without a network."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.weights.registry import load_registry
    from vtcli.weights.resolve import resolve

    registry = load_registry()
    for name in names:
        registry.find(name)
    with fetch_progress() as progress:
        for name in names:
            typer.echo(resolve(name, progress).path)
    return EXIT_OK


@app.command()
def push(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="A checkpoint id, or one of our .safetensors files.")
    ],
    repo: Annotated[
        str, typer.Argument(metavar="ORG/REPO", help="The Hub repository to write to.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
) -> int:
    """Publish a checkpoint on the Hugging Face Hub: safetensors, configuration and model card."""
    from vtcli.cli.progress import fetch_progress
    from vtcli.weights.push import push as push_to_hub
    from vtcli.weights.resolve import resolve

    if len(repo.split("/")) != 2 or not all(repo.split("/")):
        raise UsageError(f"a repository is called ORG/REPO, not '{repo}'")
    with fetch_progress() as progress:
        found = resolve(name, progress)
    typer.echo(push_to_hub(found.path, repo, private=private))
    return EXIT_OK
