"""The structure of the code: rooms import downwards only, no file imports itself in a circle, the
command line does not wait for PyTorch, and functions and files stay short.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

import vtcli

ROOT = Path(vtcli.__file__).parent
# A room may import from itself and from rooms to its right.
ROOMS = (
    *("cli", "report", "serving", "doctor", "synthetic", "training", "evaluation", "profiling"),
    *("inference", "weights", "data", "video", "labels", "models", "runtime", "errors", "_version"),
)
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "timm", "torchvision", "transformers", "decord", "av", "matplotlib", "onnx"}
MAX_PARAMETERS = 8
MAX_LINES = 400
MAX_FUNCTION_LINES = 70
REASON = "Long because"  # opens the reason for a long file, in its first docstring


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(tree: ast.AST) -> Iterator[str]:
    """All modules that are imported anywhere below a node, also for type checking only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def graph() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    return {
        name: {m for m in imports(ast.parse(path.read_text())) if m in MODULES} - {name}
        for name, path in MODULES.items()
    }


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_file_is_in_a_room() -> None:
    top = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert top - {"__init__", "__main__"} == set(ROOMS)


def test_rooms_import_downwards_only() -> None:
    upwards = [
        f"{module} -> {target}"
        for module, targets in graph().items()
        for target in targets
        if "." in module and "." in target and room_of(module) in ROOMS
        if ROOMS.index(room_of(target)) < ROOMS.index(room_of(module))
    ]
    assert upwards == []


def circles(edges: Mapping[str, Set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, found by depth-first search (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in edges[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def test_no_two_files_import_each_other_in_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert circles(graph()) == []


def test_an_architecture_does_not_import_another() -> None:
    for path in (ROOT / "models").glob("*/*.py"):
        for module in imports(ast.parse(path.read_text())):
            if (
                module.startswith("vtcli.models.")
                and (ROOT / "models" / module.split(".")[2]).is_dir()
            ):
                assert module.split(".")[2] == path.parent.name, f"{path}: {module}"


def test_networks_know_no_files_and_no_commands() -> None:
    for path in (ROOT / "models").glob("*/model.py"):
        names = {module.split(".")[0] for module in imports(ast.parse(path.read_text()))}
        assert not names & {"pathlib", "os", "io", "typer", "huggingface_hub", "urllib"}, path


def top_level_imports(module: str, seen: set[str]) -> Iterator[str]:
    """What importing a module imports, through the files of this package."""
    if module in seen or module not in MODULES:
        return
    seen.add(module)
    tree = ast.parse(MODULES[module].read_text())
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imports(ast.Module([node], [])):
                yield name
                yield from top_level_imports(name, seen)


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.name)
def test_commands_import_nothing_heavy_at_module_level(path: Path) -> None:
    names = {m.split(".")[0] for m in top_level_imports(module_name(path), set())}
    assert not names & HEAVY


def test_the_decode_path_imports_no_pytorch() -> None:
    names = {m.split(".")[0] for m in top_level_imports("vtcli.video.decode", set())}
    assert "torch" not in names


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef, path: Path) -> bool:
    """Whether Typer reads the function's parameters as options."""
    defaults = [*node.args.args, *node.args.kwonlyargs]
    texts = [ast.unparse(a.annotation) for a in defaults if a.annotation]
    return path.parent.name == "cli" and any("Annotated[" in t or "Option" in t for t in texts)


def test_functions_have_at_most_eight_parameters() -> None:
    long = []
    for path in FILES:
        for node in functions(path):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [a.arg for a in arguments if a.arg not in ("self", "cls")]
            if len(names) > MAX_PARAMETERS and not is_command(node, path):
                long.append(f"{path.relative_to(ROOT)}: {node.name} has {len(names)}")
    assert long == []


def test_functions_fit_on_a_screen() -> None:
    long = []
    for path in FILES:
        for node in functions(path):
            first = (
                node.body[0].end_lineno if node.args.args or node.args.kwonlyargs else node.lineno
            )
            lines = (node.end_lineno or 0) - (first or 0)
            if lines > MAX_FUNCTION_LINES:
                long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert long == []


def test_a_long_file_states_its_reason() -> None:
    long = [
        str(path.relative_to(ROOT))
        for path in FILES
        if len(path.read_text().splitlines()) > MAX_LINES
        and REASON not in " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    ]
    assert long == []


def test_every_file_says_what_it_is_for() -> None:
    empty = [
        str(path.relative_to(ROOT))
        for path in FILES
        if path.read_text().strip()
        and len(ast.get_docstring(ast.parse(path.read_text())) or "") < 20
    ]
    assert empty == []
