"""`vt models mirror`, killed by SIGKILL twice, ends complete; a second machine predicts from it.

Real processes talk to a server on localhost, which kills them while they commit or upload.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.hub import FileStore, Hub, HubPages, running_hub

IDS = ["tiny0.k400-8f", "tiny1.k400-8f", "tiny2.k400-8f"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as server:
        text = ""
        for seed, id_ in enumerate(IDS):
            content = tiny.official_file(tmp_path / "tiny.pyth", seed).read_bytes()
            server.add_repo(f"upstream/{id_}", {"weights.pyth": content})
            where = f'repo = "upstream/{id_}"\nfile = "weights.pyth"'
            source = tiny.SOURCE.format(kind="hub", where=where, sha256="")
            text += tiny.REGISTRY.format(sources=source).replace("tiny.k400-8f", id_)
        (tmp_path / "own.toml").write_text(text)
        yield server


def start(hub: Hub, home: Path, registry: str, *words: str) -> subprocess.Popen[str]:
    """`vt` in a process with the caches of a machine."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "VT_"))},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_writer" if "mirror" in words else "hf_reader",
        "VT_CACHE": str(home / "vt"),
        "VT_REGISTRY": registry,
        "NO_PROXY": "*",
    }
    command = [sys.executable, "-m", "vtcli", *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


@pytest.mark.slow
def test_a_mirror_killed_twice_serves_a_machine_with_empty_caches(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[subprocess.Popen[str]] = []
    deaths: list[str] = []

    def kill(where: str) -> None:
        deaths.append(where)
        running[-1].send_signal(signal.SIGKILL)
        running[-1].wait()

    commit, upload = HubPages.commit, FileStore.do_PUT

    def commit_until_death(self: Any, name: str, lines: Any) -> None:
        if not deaths and name == f"team/{IDS[1]}":
            kill(name)  # the weights are uploaded, no commit names them
            return
        commit(self, name, lines)

    def upload_until_death(self: Any) -> None:
        if len(deaths) == 1 and f"team/{IDS[2]}" in hub.repos:
            kill(f"team/{IDS[2]}")
            self.close_connection = True
            return
        upload(self)

    for handler in (s.RequestHandlerClass for s in hub.servers):
        if issubclass(handler, HubPages):
            monkeypatch.setattr(handler, "commit", commit_until_death)
        else:
            monkeypatch.setattr(handler, "do_PUT", upload_until_death)

    first, own = tmp_path / "first", str(tmp_path / "own.toml")
    outputs = []
    for _ in range(3):
        running.append(start(hub, first, own, "models", "mirror", "team", "tiny*"))
        outputs.append(running[-1].communicate(timeout=120))
    assert [process.returncode for process in running] == [-9, -9, 0], outputs
    assert deaths == [f"team/{IDS[1]}", f"team/{IDS[2]}"]
    assert "1 pushed, 2 unchanged" in outputs[2][0]
    assert {name for name in hub.repos if name.startswith("team/")} == {
        *(f"team/{id_}" for id_ in IDS),
        "team/vt-registry",
    }

    for id_ in IDS:
        del hub.repos[f"upstream/{id_}"]
    video = tiny.video(tmp_path / "clip.mp4")
    words = ("predict", str(video), "-m", IDS[2], "--device", "cpu", "--format", "json")
    theirs = start(hub, tmp_path / "second", "hf://team/vt-registry", *words)
    ours = start(hub, first, own, *words)
    answers = [process.communicate(timeout=120) for process in (theirs, ours)]
    assert theirs.returncode == 0, answers[0][1]
    rows = [json.loads(out)["results"][0]["predictions"] for out, _ in answers]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 5
