"""Write docs/cli.md, the reference of all commands, from the Typer app.

Run `python tools/cli_reference.py` after a change to a command or an option; a test fails while the
file is stale.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer

from vtcli.cli import app

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# Command reference

<!-- Written by tools/cli_reference.py; do not edit. -->

Results go to standard output; progress, warnings and errors go to standard error. Exit codes are in
[exit-codes.md](exit-codes.md). `vt COMMAND --help` prints the same text.

Options with one name mean the same in every command. Where their defaults differ, the purpose does:

| option | default | but |
| --- | --- | --- |
| `-b` | views per forward pass, as many as suit the device | `vt profile` 1, to measure latency; \
`vt finetune` the recipe's, clips per process |
| `-j` | one process per core | |
| `--precision` | `auto`: bf16 where the hardware supports it, fp32 for small models on a CPU | \
`vt eval` fp32, as published results; `vt finetune` has timm's `--amp-dtype` |
| `--seed` | 0 | `vt demo` 1: clips unlike those the models were trained on |
| `--format` | `table`; the extension of `-o`, where the results are written to a file | |
| `-o` | standard output | commands that make weights or a run need it, or name it themselves; \
missing folders are created, but not by `vt embed` and for `--annotate` |
"""


def reference() -> str:
    """The whole page as Markdown."""
    blocks = [HEAD]
    for name, command in _commands(typer.main.get_command(app), "vt"):
        blocks += [_command_block(name, command)]
    return "\n".join(blocks)


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{name} {word}")


def _command_block(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    # Typer's own --help is left out.
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    options.sort(key=_panel)
    children = getattr(command, "commands", {})
    lines = [f"## {name}", "", inspect.cleandoc(command.help or ""), ""]
    if not children or name == "vt eval":
        usage = [name, *(_usage(argument) for argument in arguments), "[OPTIONS]"]
        lines += ["```", " ".join(usage), "```", ""]
    for argument in arguments:
        lines.append(f"- `{argument.metavar}`: {argument.help}{_default(argument)}")
    panel = ""
    for option in options:
        if _panel(option) != panel:
            panel = _panel(option)
            lines += ["", f"{panel}:", ""]
        lines.append(f"- `{_spelling(option)}`: {option.help}{_default(option)}")
    if children:
        lines += ["", "Commands: " + ", ".join(_link(f"{name} {word}") for word in children) + "."]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).rstrip() + "\n")


def _panel(option: Any) -> str:
    return getattr(option, "rich_help_panel", None) or ""


def _usage(argument: Any) -> str:
    text = argument.metavar.removesuffix("...") + ("..." if argument.nargs == -1 else "")
    return text if argument.required or text.startswith("[") else f"[{text}]"


def _link(name: str) -> str:
    return f"[`{name}`](#{name.replace(' ', '-')})"


def _spelling(option: Any) -> str:
    names = [", ".join(sorted(option.opts, key=len)), *option.secondary_opts]
    return f"{' / '.join(names)} {_value(option)}".strip()


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    if option.metavar is not None:
        return str(option.metavar)
    if hasattr(option, "type_descriptor"):  # Typer since 0.2x; click's `type` before
        kind = option.type_descriptor.annotation
        choices, name = get_args(kind), getattr(kind, "__name__", "")
    else:
        choices, name = getattr(option.type, "choices", ()), option.type.name
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    text = f"{name} {choices}"
    return "N" if "int" in text else "X" if "float" in text else "TEXT"


def _default(param: Any) -> str:
    if param.required or param.show_default is False:
        return " Required." if param.required else ""
    if isinstance(param.show_default, str):
        return f" Default: {param.show_default}."
    if param.default is None or (getattr(param, "is_flag", False) and not param.default):
        return ""
    if getattr(param, "is_flag", False):
        return " Default: on."
    return f" Default: `{param.default}`."


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
