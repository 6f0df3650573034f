"""A run on a Ray cluster has the rows of one without, also when an actor or a node is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cli.bulk_runs import MODEL, folder_of, kept_rows, start, values_of
from tests.runtime.processes import wait_until
from vtcli.cli import run as vt
from vtcli.inference import ray_engine
from vtcli.inference.run_store import RunStore

FILES = 40
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last of every part takes two seconds."""
    folder = folder_of(tmp_path_factory.mktemp("videos") / "in", FILES)
    for path in folder.glob("clip??9.mp4"):
        path.rename(path.with_name(f"{path.stem}SLOW.mp4"))
    return folder


@pytest.fixture(scope="module")
def unbroken(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    process = start(words(videos, run))
    assert process.wait() == 3, process.communicate()
    return values_of(run)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one device each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        # Actors compute in one thread each, as the run that they are compared with.
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("VT_TEST_DECODER_FAULTS", "1")
        head = {"num_cpus": 1, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.second = made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def words(videos: Path, run: Path) -> list[str]:
    settings = ("-b", "8", "--part-size", "10", "--format", "jsonl")
    return ["predict", str(videos), "-m", MODEL, "-o", f"{run}/", *settings]


def drive(cluster: Any, videos: Path, run: Path) -> subprocess.Popen[str]:
    return start([*words(videos, run), "--engine", "ray", "--ray-address", cluster.address])


def workers(run: Path) -> set[int]:
    """The processes that work on a part now."""
    found = set()
    for path in run.glob("_vt/*.claim"):
        with suppress(FileNotFoundError):
            found.add(json.loads(path.read_bytes())["pid"])
    return found


def test_an_actor_is_killed_and_a_second_driver_refused(
    unbroken: dict[str, Any], cluster: Any, videos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    driver = drive(cluster, videos, run)
    wait_until(lambda: len(kept_rows(run)) % 10 == 8 and bool(workers(run)), 90)
    os.kill(workers(run).pop(), signal.SIGKILL)
    stored = kept_rows(run)
    second = drive(cluster, videos, run)
    errors = second.communicate(timeout=60)[1]
    assert driver.poll() is None
    assert second.returncode == 7
    assert "driven by another vt predict --engine ray" in errors
    assert driver.wait(timeout=120) == 3, driver.communicate()
    assert values_of(run) == unbroken
    assert stored.items() <= kept_rows(run).items()  # with the time it took
    assert not list(run.glob("_vt/*.claim"))
    assert not list(run.glob("_vt/*.journal"))


def test_a_node_is_lost(
    cluster: Any, videos: Path, unbroken: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    driver = drive(cluster, videos, run)
    wait_until(lambda: len(workers(run)) == 2, 90)
    cluster.remove_node(cluster.second, allow_graceful=False)
    assert driver.wait(timeout=120) == 3, driver.communicate()
    assert values_of(run) == unbroken


def test_the_driver_counts_rows_before_their_part_is_done(tmp_path: Path) -> None:
    store = RunStore(tmp_path, "jsonl")
    store.parts_folder.mkdir()
    counted = ray_engine._StoredRows(store)
    assert counted.of(3) == 0
    with store.journal(3) as add:
        for number in range(1, 4):
            add({"path": f"{number}.mp4"})
            assert counted.of(3) == number
        path = store.journals(3)[0]
        before = path.read_bytes()
        path.write_bytes(b"-" * len(before))  # what was read once is not read again
        assert (counted.of(3), counted.of(4)) == (3, 0)
    store.forget(3)
    assert counted.of(3) == 3


def test_without_ray_one_sentence_says_how_to_install_it(
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert vt([*words(videos, tmp_path / "run"), "--engine", "ray"]) == 2
    assert "pip install 'vtcli[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "_vt" / "run.json").exists()
