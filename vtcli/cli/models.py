"""`vt models`: list, show, download and publish checkpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from vtcli.cli.next_step import command, print_next
from vtcli.cli.options import FormatOption, TableFormatOption
from vtcli.cli.suggestions import complete_dataset, complete_model, one_of
from vtcli.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError

app = typer.Typer(help="List, show, download and publish checkpoints.", no_args_is_help=True)

IdArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help="Checkpoint id or alias.", autocompletion=complete_model),
]


@app.command("list")
def list_(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="[PATTERN]",
            help="Shell pattern for checkpoint and model ids.",
            autocompletion=complete_model,
        ),
    ] = "*",
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="NAME", help="List only this architecture.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="List only checkpoints for this dataset.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    available: Annotated[
        bool,
        typer.Option("--available", help="List only checkpoints with a link that is not dead."),
    ] = False,
    format: TableFormatOption = "table",
) -> int:
    """List checkpoints: training dataset, published accuracy, state of the download links."""
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
        raise UsageError("no checkpoint matches; `vt models list` shows all of them")
    print_list(rows, registry, format)
    print_next(command("models", "show", rows[0].id if rows else "ID"), format=format)
    return EXIT_OK


@app.command()
def show(
    name: IdArgument,
    format: FormatOption = "table",
) -> int:
    """Show everything known of a checkpoint: its registry entry, or a file's or folder's card."""
    from vtcli.report.models import print_card, print_model_card
    from vtcli.weights.checkpoint import ModelCard
    from vtcli.weights.registry import bundled_path, load_registry
    from vtcli.weights.repository import hub_name
    from vtcli.weights.resolve import cached_path, is_path, lookup

    if hub_name(name) is not None or is_path(name):
        known = lookup(name, needs_classifier=False)
        if isinstance(known, ModelCard):
            print_model_card(known, name, format)
            print_next(command("predict", "VIDEO", "-m", name), format=format)
            return EXIT_OK
        name = known.id
    row = load_registry().find(name)
    cached = bundled_path(row) or cached_path(row)
    print_card(row, cached if cached.is_file() else None, format)
    use = command("predict", "VIDEO", "-m", name)
    print_next(use if cached.is_file() else command("models", "fetch", name), format=format)
    return EXIT_OK


@app.command()
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="ID",
            help="Checkpoint ids or aliases, or org/repo.",
            autocompletion=complete_model,
        ),
    ],
) -> int:
    """Download and convert checkpoints now, so that they can be used offline."""
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.weights.registry import load_registry
    from vtcli.weights.repository import hub_name
    from vtcli.weights.resolve import is_path, resolve

    for name in names:
        if hub_name(name) is None and not is_path(name):
            load_registry().find(name)  # a mistyped one is reported before a download
    with working("") as task, fetch_progress() as progress:
        for name in names:
            task.say(f"fetching {name}")
            typer.echo(resolve(name, progress, needs_classifier=False).path)
    print_next(command("predict", "VIDEO", "-m", names[0]))
    return EXIT_OK


@app.command()
def push(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Checkpoint id, .safetensors file, folder or org/repo.",
            autocompletion=complete_model,
        ),
    ],
    repo: Annotated[str, typer.Argument(metavar="ORG/REPO", help="Hub repository to write to.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
    form: Annotated[
        str,
        typer.Option(
            "--form",
            metavar="NAME",
            help="Form of the repository: vt, or transformers, which only a ViViT has.",
            autocompletion=one_of("vt", "transformers"),
        ),
    ] = "vt",
) -> int:
    """Publish a checkpoint on the Hugging Face Hub: weights, configuration and model card."""
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.weights.names import is_repo
    from vtcli.weights.push import check_form
    from vtcli.weights.push import push as push_to_hub
    from vtcli.weights.resolve import resolve

    if not is_repo(repo):
        raise UsageError(f"the repository is ORG/REPO, such as my-org/my-model, not '{repo}'")
    check_form(form)  # before a download
    with working(f"fetching {name}") as task, fetch_progress() as progress:
        found = resolve(name, progress)
        task.say(f"uploading to {repo}")
        typer.echo(push_to_hub(found.path, repo, private=private, form=form))
    print_next(command("predict", "VIDEO", "-m", f"hf://{repo}"))
    return EXIT_OK


@app.command()
def mirror(
    org: Annotated[
        str, typer.Argument(metavar="ORG", help="Organization or user of the Hub to write to.")
    ],
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="[PATTERN]",
            help="Shell pattern for checkpoint and model ids.",
            autocompletion=complete_model,
        ),
    ] = "*",
    private: Annotated[
        bool, typer.Option("--private/--public", help="Make the repository private.")
    ] = True,
) -> int:
    """Copy checkpoints to your organization as safetensors, with a registry file for your team."""
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.weights.mirror import REGISTRY_REPO
    from vtcli.weights.mirror import mirror as mirror_to

    counts = dict.fromkeys(("pushed", "unchanged", "skipped", "failed"), 0)
    with (
        working(f"mirroring to {org}", "checkpoints") as task,
        fetch_progress() as progress,
    ):
        for result in mirror_to(
            org, pattern, private=private, on_download=progress, on_entry=task.update
        ):
            counts[result.status] += 1
            typer.echo(f"{result.status:9} {result.id}  {result.reason or result.repo}")
    typer.echo(", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts["pushed"] + counts["unchanged"]:
        typer.echo(f"use them with: export VT_REGISTRY=hf://{org}/{REGISTRY_REPO}")
        print_next(f"export VT_REGISTRY=hf://{org}/{REGISTRY_REPO}", command("models", "list"))
    return EXIT_SOME_FAILED if counts["failed"] else EXIT_OK
