"""Every command and every Python block of the README and of docs/ runs as printed.

The names of full-size models stand for small ones of the package here; a new training is cut to
one epoch.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.docs.pages import PAGES, ROOT, blocks
from vtcli.cli import run
from vtcli.profiling import benchmark
from vtcli.synthetic.motion8 import make_motion8
from vtcli.weights.registry import bundled_path, load_registry

ELSEWHERE = {"add-an-architecture.md"}  # has a test of its own
RUNNABLE = [
    page
    for page in PAGES
    if page.name not in ELSEWHERE and (blocks(page, "sh") or blocks(page, "python"))
]
MODELS = ("uniformerv2-b", "uniformerv2-l", "vivit-b")
REGISTRY = "[default.model]\n" + "".join(
    f'"{name}" = "{name.split("-")[0]}-nano.motion8"\n' for name in MODELS
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take as given: videos, a converted file, and runs."""
    folder = tmp_path_factory.mktemp("files")
    made = make_motion8(folder / "drawn", clips={"test": 16}, seed=1)
    shutil.copytree(made / "test", folder / "videos")
    clip = folder / "videos" / "left" / "0000.mp4"
    (folder / "more").mkdir()
    for name in ("new", "long"):
        (folder / name).mkdir()
    copies = ("clip.mp4", "a.mp4", "b.mp4", "query.mp4", "long.mp4", "more/one.webm")
    for name in (*copies, "new/one.mp4", "long/one.mp4"):
        shutil.copy(clip, folder / name)
    rows = [(str(p.relative_to(folder)), p.parent.name) for p in (folder / "videos").rglob("*.mp4")]
    manifest = "".join(f"{path},{label}\n" for path, label in rows)
    (folder / "labels.csv").write_text(f"path,label\n{manifest}")
    (folder / "events.csv").write_text("path,label,start,end\nlong.mp4,left,0.1,0.5\n")
    parquet.write_table(
        pyarrow.table({"path": [path for path, _ in rows]}), folder / "list.parquet"
    )
    nano = bundled_path(load_registry(extra=()).find("uniformerv2-nano"))
    assert nano is not None
    shutil.copy(nano, folder / "b.safetensors")
    (folder / "runs" / "mine").mkdir(parents=True)
    shutil.copy(nano, folder / "runs" / "mine" / "best.safetensors")
    words = [
        "eval",
        "--dataset",
        str(folder / "videos"),
        "-m",
        "uniformerv2-nano",
        "--views",
        "1x3",
    ]
    assert run([*words, "-o", str(folder / "runs" / "RUN"), "-j", "0"]) == 0
    for name in ("A", "B", "VALIDATION"):
        shutil.copytree(folder / "runs" / "RUN", folder / "runs" / name)
    (folder / "registry.toml").write_text(REGISTRY)
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files for one page, and the registry in which small models have large names;
    measurements of speed take a tenth of a second.
    """
    monkeypatch.setattr(benchmark, "RUN_SECONDS", 0.1)
    monkeypatch.setattr(benchmark, "MATMUL_SIZE", 256)
    copy = tmp_path / "page"
    shutil.copytree(files, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("VT_REGISTRY", str(copy / "registry.toml"))
    return copy


def in_time(words: list[str]) -> list[str]:
    """The words of a command; a training by steps takes one epoch."""
    by_steps = words[0] == "finetune" and not {"head", "--learning-curve"} & set(words)
    return [*words, "--epochs", "1"] if by_steps else words


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(
    page: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for block in [*blocks(page, "console"), *blocks(page, "sh")]:
        for command in block.commands:
            if block.reason(command):
                continue
            for part in command.split(" && "):
                words = shlex.split(part, comments=True)
                assert words[0] == "vt", f"{part}: say why it is not run, in a comment above it"
                code = run(in_time(words[1:]))
                assert code == 0, f"{part}: {capfd.readouterr().err[-2000:]}"


@pytest.mark.slow
def test_the_python_of_the_readme_runs(folder: Path) -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    exec(compile(block.text, "README.md", "exec"), {})
    assert (folder / "mine.safetensors").is_file()
