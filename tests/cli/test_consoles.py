"""The command line in containers, old terminals and pipes, each in a process of its own."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import layouts

VT = (sys.executable, "-m", "vtcli")


def shell(command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    words = f'"{sys.executable}" -m vtcli {command}'
    return subprocess.run(
        ["sh", "-c", words], capture_output=True, env={**os.environ, **env}, timeout=60, check=False
    )


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    for label in ("left\x1b[2J", "=cmd()", "größe"):
        layouts.video(tmp_path / "set" / label / "0.mp4")
    return tmp_path / "set"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_neither_the_exit_code_nor_the_other_stream(closed: str) -> None:
    done = shell(f"datasets show nosuch {closed}")
    assert done.returncode == 2
    assert done.stdout == b""
    assert (b"nosuch" in done.stderr) is ("2>" not in closed)
    assert shell(f"datasets list {closed}").returncode == 0


def test_a_file_is_whole_where_standard_output_is_closed(listed: Path, tmp_path: Path) -> None:
    done = shell(f"datasets check '{listed}' -o '{tmp_path}/clean.csv' >&-")
    assert done.returncode == 3  # the three clips are equal
    assert (tmp_path / "clean.csv").read_text().startswith("path,label,split,start,end,id\n")


def test_without_a_home_and_a_user_the_commands_work(listed: Path, tmp_path: Path) -> None:
    code = (
        "import os; os.environ.pop('HOME', None); import pwd; "
        "pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid)); "
        f"from vtcli.cli import run; from vtcli.runtime.cache import cache_dir; "
        f"code = run(['datasets', 'show', {str(listed)!r}]); print(cache_dir()); "
        "raise SystemExit(code)"
    )
    env = {name: v for name, v in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    env |= {"TMPDIR": str(tmp_path)}
    env.pop("VT_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(str(tmp_path))


@pytest.mark.parametrize("format", ["json", "csv"])
def test_json_and_csv_are_utf_8_in_an_old_code_page(listed: Path, format: str) -> None:
    env = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}
    done = shell(f"datasets check '{listed}' --format {format}", **env)
    assert "größe" in done.stdout.decode("utf-8")


def test_a_name_that_is_not_utf_8_is_valid_json(tmp_path: Path) -> None:
    for label in ("a", "b"):
        layouts.video(tmp_path / "set" / label / os.fsdecode(b"caf\xe9.mp4"))
    done = shell(f"datasets show '{tmp_path}/set' --format json")
    first = json.loads(done.stdout.decode("utf-8"))["first"][0]
    assert os.fsencode(first["path"]) == os.fsencode(tmp_path) + b"/set/a/caf\xe9.mp4"


def test_control_characters_are_escaped_on_a_terminal(listed: Path) -> None:
    main, side = pty.openpty()
    done = subprocess.run(
        [*VT, "datasets", "show", str(listed)], stdout=side, stderr=side, timeout=60
    )
    os.close(side)
    shown = b""
    try:
        while chunk := os.read(main, 65536):
            shown += chunk
    except OSError:
        pass  # how Linux reports the end of a terminal
    os.close(main)
    assert done.returncode == 0
    assert b"\x1b[2J" not in shown
    assert b"left\\x1b[2J" in shown


def test_csv_cells_that_a_spreadsheet_would_run_are_quoted_on_request(tmp_path: Path) -> None:
    for name in ("=1+2.mp4", "-x.mp4", "@y.mp4", "z.mp4"):
        layouts.video(tmp_path / "a" / name)
    rows = [("path", "label", "id"), *((f"a/{n}.mp4", n, n) for n in ("=1+2", "-x", "@y", "z"))]
    path = layouts.table(tmp_path / "list.csv", rows)
    for option, mark in (("", ""), ("--csv-safe", "'")):
        done = shell(f"datasets check '{path}' --format csv -o '{tmp_path}/kept.csv' {option}")
        ids = [row["id"] for row in csv.DictReader(io.StringIO(done.stdout.decode()))]
        assert ids == [f"{mark}-x", f"{mark}@y", "z"]
        with (tmp_path / "kept.csv").open(newline="") as file:
            assert [row["label"] for row in csv.DictReader(file)] == [f"{mark}=1+2"]


def test_a_file_name_that_looks_like_an_option_gets_a_hint(tmp_path: Path) -> None:
    layouts.video(tmp_path / "-dash.mp4")
    done = subprocess.run(
        [*VT, "predict", "-dash.mp4"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 2
    assert done.stderr == (
        "vt: error: '-dash.mp4' begins with '-' and is read as an option; write ./-dash.mp4\n"
    )
