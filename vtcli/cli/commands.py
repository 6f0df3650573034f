"""The commands by name, each imported when it is called.

`vt --help` and a shell's completion need only names and summaries, which are listed here; nor do
they need what Typer's help imports of rich for Markdown and tracebacks.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info, get_group
from typer.models import CommandInfo

from vtcli.cli.examples import add_examples

SUMMARIES = {
    "predict": "Classify the action in a video: one file, one model name, top-5 labels.",
    "embed": (
        "Compute embeddings of videos: what the classifier of a model sees, to search and to "
        "cluster."
    ),
    "search": (
        "Find the clips nearest to a video or a class by cosine similarity, and classify by them."
    ),
    "explain": (
        "Show which parts of a video count for a class: integrated gradients over the frames."
    ),
    "serve": "Serve predictions, embeddings and timelines over HTTP, with a page to try them.",
    "eval": "Evaluate a model on a labeled dataset; rescore, export, calibrate or compare runs.",
    "review": (
        "Find the videos that a human should look at: labels that may be wrong, and hard cases."
    ),
    "finetune": "Train a model on your own classes; the result is RUN/best.safetensors.",
    "convert": (
        "Convert a checkpoint from an upstream format to safetensors, or from there to another."
    ),
    "profile": (
        "Report parameters, MACs and FLOPs of models, and measure their speed and memory here."
    ),
    "models": "List, show, download and publish checkpoints.",
    "datasets": "List, show, check, export and make datasets.",
    "demo": "Predict, profile, evaluate and annotate synthetic clips with four small models.",
    "doctor": (
        "Check versions, processor, decoders, cache and Hub; print the result for a bug report."
    ),
}
"""The first paragraph of each command's help, in the order in which commands are listed."""
LEAST_BOXED = 72
"""Columns from which the boxes of help have place for the longest option."""


class _Commands(Mapping[str, Any]):
    """Commands by name: a function or a `Typer` in the file of that name."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in SUMMARIES:
            raise KeyError(name)
        if name not in self._loaded:
            command = add_examples(_load(name), name)
            self._loaded[name] = _plain_where_narrow(command)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in SUMMARIES

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


def _load(name: str) -> Any:
    module = import_module(f"vtcli.cli.{name}")
    app = getattr(module, "app", None)
    if isinstance(app, typer.Typer):
        group = get_group(app)
        group.name = name
        return group
    info = CommandInfo(name=name, callback=getattr(module, name))
    return get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode="rich")


def _is_narrow() -> bool:
    return shutil.get_terminal_size().columns < LEAST_BOXED


def _plain_where_narrow(command: Any) -> Any:
    """The command; its help, and that of those below it, has no boxes in a narrow terminal."""
    if _is_narrow():
        command.rich_markup_mode = None
        # Listed whole: only what is taken from the help is cut.
        command.short_help = (command.help or "").split("\n\n")[0].replace("\n", " ")
        for below in getattr(command, "commands", {}).values():
            _plain_where_narrow(below)
    return command


class CommandGroup(TyperGroup):
    """The root group; while commands are listed, each is only a name and its summary."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Commands()
        self._listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the list."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or what is listed of it; None if there is none of this name."""
        if self._listing:
            summary = SUMMARIES[cmd_name]
            return TyperCommand(cmd_name, help=summary, short_help=summary)
        return self.commands.get(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help without importing the commands."""
        self._listing = True
        if _is_narrow():
            self.rich_markup_mode = None
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The commands that begin as typed, without importing them."""
        self._listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._listing = False


def import_help() -> None:
    """Import what prints help, without the parts of rich that it imports and does not use here.

    They take half of the time. Nothing is changed where Typer imports other names of them.
    """
    unused = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
    if "typer.rich_utils" in sys.modules or any(name in sys.modules for name in unused):
        return
    for name, member in unused.items():
        stand_in = ModuleType(name)
        setattr(stand_in, member, type(member, (), {}))
        sys.modules[name] = stand_in
    try:
        import_module("typer.rich_utils")
    except ImportError:
        pass  # Typer imports it again when it prints
    finally:
        for name in unused:
            del sys.modules[name]
