"""The rivers flow one way: a part imports parts below it, never above; the command line waits for
no PyTorch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vtcli

ROOT = Path(vtcli.__file__).parent
ORDER = ["cli", "engine", "report", "data", "weights", "video", "labels", "models", "errors"]
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "timm", "torchvision", "transformers", "decord", "av", "matplotlib"}


def imports(tree: ast.AST) -> Iterator[str]:
    """All modules that are imported anywhere below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "vtcli":
                yield from (f"vtcli.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part not in ORDER:
        return  # vtcli/__init__.py and __main__.py stand above all parts
    for module in imports(ast.parse(path.read_text())):
        if module.startswith("vtcli."):
            target = module.split(".")[1]
            if target.startswith("__"):
                continue
            assert ORDER.index(target) >= ORDER.index(part), f"{path}: {module}"


def test_an_architecture_knows_no_other() -> None:
    for path in (ROOT / "models").glob("*/*.py"):
        for module in imports(ast.parse(path.read_text())):
            if module.startswith("vtcli.models.") and module.count(".") > 2:
                assert module.split(".")[2] == path.parent.name, f"{path}: {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.name)
def test_commands_import_nothing_heavy_at_module_level(path: Path) -> None:
    top = [
        n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    names = {m.split(".")[0] for node in top for m in imports(ast.Module([node], []))}
    assert not names & HEAVY
