"""The documentation: links lead somewhere, printed commands exist, and no page is stale."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from tests.docs.pages import PAGES, ROOT, blocks
from vtcli.cli import app
from vtcli.cli.options import RENAMED_OPTIONS

README_WORDS = 1300
OLD_WORDS = re.compile(
    r"\bmend(s|ed|ing)?\b|\bspare[sd]?\b|\bmade-up\b|(?<!there )\bis no [a-z]+", re.IGNORECASE
)
SOURCES = sorted(p for p in (ROOT / "vtcli").rglob("*") if p.suffix in (".py", ".toml", ".html"))
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_reference_is_up_to_date() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == tool("cli_reference").reference(), "run python tools/cli_reference.py"


@by_name
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if heading:
            found = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in found}


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words call, and the words after its name."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def vt_commands(page: Path) -> list[list[str]]:
    """The words after `vt` of every vt command in a shell block."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.commands:
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["vt"]:
                    found.append(words[1:])
                elif "vtcli" in words:
                    found.append(words[words.index("vtcli") + 1 :])
    return found


@by_name
def test_printed_commands_and_their_options_exist(page: Path) -> None:
    for words in vt_commands(page):
        command, rest = command_of(words)
        assert command.name != "vt" or rest[0] == "--help", words
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert used <= known, (words, used - known)


@by_name
def test_options_in_the_text_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it names old options
    text = page.read_text(encoding="utf-8")
    known = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    foreign = {
        "--nproc-per-node",
        "--max-restarts",
        "--dist",
        "--no-loadscope-reorder",
        "--help",
        "--logdir",
    }
    slurm = {"--array", "--gres", "--cpus-per-task", "--requeue"}
    ray = {"--head", "--port", "--address", "--generate"}
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - foreign - slurm - ray:
        if page.name in ("README.md", "CONTRIBUTING.md") and option in ("--check", "--format"):
            continue
        assert option in known, option
        assert option not in RENAMED_OPTIONS or option == "--train", option


def test_install_and_tests_are_one_command_line_each() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < README_WORDS
    install = next(b for b in blocks(ROOT / "README.md", "sh") if "pip install ." in b.text)
    assert install.commands == ["pip install . && vt demo"]
    marked = re.search(r"<!-- tests:begin -->\n```sh\n(.*?)```\n<!-- tests:end -->", text, re.S)
    assert marked is not None
    assert marked[1].count("\n") == 1
    assert marked[1].startswith("pip install -e '.[test]' && pytest ")


def test_the_language_is_plain() -> None:
    found = {
        str(path.relative_to(ROOT)): [match[0] for match in OLD_WORDS.finditer(text)]
        for path in [*PAGES, *SOURCES]
        if (text := path.read_text(encoding="utf-8"))
    }
    assert {name: words for name, words in found.items() if words} == {}


def test_python_blocks_are_valid() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            compile(block.text, str(page), "exec")


def test_the_glossary_is_sorted_and_has_the_terms_of_the_help() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    names = [term for term in terms if not term.startswith("-")]
    assert names == sorted(names, key=str.casefold)
    assert {"view", "clip", "crop", "protocol", "split", "head", "tag"} <= set(names)
    assert {"upstream", "layout", "mfu", "hfu", "resume", "segment"} <= set(names)
