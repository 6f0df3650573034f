"""The folder of a bulk run: parts are claimed once, published once, and survive kills."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import pytest

from vtcli.errors import DataError, OutOfMemoryError
from vtcli.inference import inputs, run_store
from vtcli.inference.bulk import read_status, retry_failures, run_parts
from vtcli.inference.run_store import Input, RunStore
from vtcli.inference.selection import Shard
from vtcli.runtime.rows import Row, read_rows, write_jsonl, write_parquet

INPUTS = [Input(f"/videos/{number}.mp4", 100 + number, number) for number in range(25)]


class Counting:
    """Rows that say which call made them; paths that end in `bad` fail."""

    def __init__(self, delay: float = 0.0, fixed: bool = False) -> None:
        self.calls: list[str] = []
        self.delay, self.fixed = delay, fixed

    def rows(self, inputs: Sequence[Input], missing: Set[int]) -> Iterator[tuple[int, Row]]:
        for place in sorted(missing):
            time.sleep(self.delay)
            path = inputs[place].path
            self.calls.append(path)
            bad = path.endswith("7.mp4") and not self.fixed
            yield place, {"path": path, "reason": "corrupt" if bad else None, "labels": ["a"]}


def store_in(folder: Path, extension: str = "jsonl") -> RunStore:
    store = RunStore(folder, extension)
    store.open({"model": "m", "batch_size": 8})
    return store


def all_rows(store: RunStore) -> list[dict[str, Any]]:
    return [row for part in store.part_numbers() for row in read_rows(store.rows_file(part))]


@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
def test_every_input_has_one_row_in_order(tmp_path: Path, extension: str) -> None:
    store = store_in(tmp_path / "run", extension)
    assert store.add_inputs(INPUTS, part_size=10) == 25
    write = write_jsonl if extension == "jsonl" else write_parquet
    predictor = Counting()
    assert run_parts(store, predictor, write).computed == 25
    assert [row["path"] for row in all_rows(store)] == [one.path for one in INPUTS]
    assert not list(store.parts_folder.glob("*.claim"))
    assert not list(store.parts_folder.glob("*.journal"))
    assert run_parts(store, predictor, write).computed == 0
    assert len(predictor.calls) == 25


def test_slow_folders_are_looked_at_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    def slowly(path: str) -> Input:
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return Input(path)

    monkeypatch.setattr(inputs, "describe", slowly)
    paths = [f"{number}.mp4" for number in range(200)]
    assert [one.path for one in inputs.describe_all(paths)] == paths
    assert len(threads) > 2


def test_processes_that_begin_together_list_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait for the one that lists the same do not list again."""
    store, other = store_in(tmp_path), store_in(tmp_path)
    listed, begun = threading.Event(), threading.Event()
    now = other._now

    def now_and_begun() -> float:
        at = now()
        begun.set()
        return at

    def slowly() -> Iterator[Input]:
        yield from INPUTS
        listed.set()
        assert begun.wait(60)
        time.sleep(0.05)  # file systems count time in steps of some milliseconds

    monkeypatch.setattr(other, "_now", now_and_begun)

    def refuse() -> Iterator[Input]:
        raise AssertionError("listed again")
        yield

    first = threading.Thread(target=store.add_inputs, args=(slowly(), 10, "same"))
    first.start()
    listed.wait()
    assert other.add_inputs(refuse(), 10, "same") == 0
    assert other.part_numbers() == [0, 1, 2]
    first.join()
    late = Input("/videos/late.mp4", 1, 1)
    assert other.add_inputs([*INPUTS, late], 10, "same") == 1  # begun after the listing


def test_only_new_and_changed_inputs_become_new_parts(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add_inputs(INPUTS, part_size=10)
    changed = Input(INPUTS[3].path, 999, 3)
    assert store.add_inputs([*INPUTS, changed, Input("/videos/new.mp4", 1, 1)], part_size=10) == 2
    assert store.part_numbers() == [0, 1, 2, 3]
    assert [one.path for one in store.inputs(3)] == [INPUTS[3].path, "/videos/new.mp4"]


def test_a_run_of_something_else_is_refused_and_open_settings_are_taken_over(
    tmp_path: Path,
) -> None:
    store_in(tmp_path)
    with pytest.raises(DataError, match=r"model 'm', not 'other'.*-o"):
        RunStore(tmp_path, "jsonl").open({"model": "other", "batch_size": 8})
    assert RunStore(tmp_path, "jsonl").open({"model": "m", "batch_size": None})["batch_size"] == 8


def test_a_part_is_claimed_by_one(tmp_path: Path) -> None:
    one, other = store_in(tmp_path), store_in(tmp_path)
    one.add_inputs(INPUTS)
    assert one.claim(0)
    assert not other.claim(0)
    other.release(0)  # not its own
    assert not other.claim(0)
    one.release(0)
    assert other.claim(0)


def test_a_claim_of_a_dead_process_expires_and_its_journal_counts(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add_inputs(INPUTS)
    script = (
        "import sys, os; from pathlib import Path; from vtcli.inference.run_store import RunStore\n"
        f"store = RunStore(Path({str(tmp_path)!r}), 'jsonl'); assert store.claim(0)\n"
        "with store.journal(0) as add:\n"
        "    add({'path': '/videos/0.mp4', 'reason': None, 'labels': ['first']})\n"
        "    add({'path': '/videos/1.mp4', 'reason': None, 'labels': ['first']})\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    journal = next(store.parts_folder.glob("*.journal"))
    with journal.open("ab") as file:  # cut off in the middle of a line
        file.write(b'{"path": "/videos/2.m')
    predictor = Counting()
    run_parts(store, predictor, write_jsonl)
    assert len(predictor.calls) == 23
    assert [row["labels"][0] for row in all_rows(store)][:3] == ["first", "first", "a"]


def test_a_silent_claim_of_another_machine_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = store_in(tmp_path), store_in(tmp_path)
    one.add_inputs(INPUTS)
    assert one.claim(0)
    path = one.parts_folder / "000000.claim"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "elsewhere"}))
    assert not other.claim(0)
    late = time.time() - 2 * run_store.CLAIM_EXPIRES
    os.utime(path, (late, late))
    assert other.claim(0)
    assert not one.claim(0)


def test_of_two_that_see_a_claim_expire_one_has_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, quick, slow = (store_in(tmp_path) for _ in range(3))
    gone.add_inputs(INPUTS)
    assert gone.claim(0)
    late = time.time() - 2 * run_store.CLAIM_EXPIRES
    os.utime(gone.parts_folder / "000000.claim", (late, late))
    looked = iter([True])

    def expired(path: Path) -> bool:
        found = RunStore._expired(slow, path)
        if next(looked, False):
            assert quick.claim(0)  # between the look and the move
        return found

    monkeypatch.setattr(slow, "_expired", expired)
    assert not slow.claim(0)
    assert quick._owns(0, quick.token)


def test_only_time_ends_a_claim_of_another_machine(tmp_path: Path) -> None:
    """A process number says nothing about another machine, and a live owner shows signs of life."""
    one, other = store_in(tmp_path), store_in(tmp_path)
    one.add_inputs(INPUTS)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert one.claim(0)
    path = one.parts_folder / "000000.claim"
    path.write_text(json.dumps({"token": one.token, "host": "elsewhere", "pid": ended.pid}))
    assert not other.claim(0)
    almost = time.time() - run_store.CLAIM_EXPIRES + 30
    os.utime(path, (almost, almost))
    assert not other.claim(0)
    assert one.claim(0) is False
    late = time.time() - run_store.CLAIM_EXPIRES - 1
    os.utime(path, (late, late))
    assert other.claim(0)


def test_the_part_of_a_process_that_is_known_to_be_dead_is_free_at_once(tmp_path: Path) -> None:
    one, other = store_in(tmp_path), store_in(tmp_path)
    one.add_inputs(INPUTS)
    assert one.claim(0)
    other.release_of(0, "somebody else")
    assert not other.claim(0)
    other.release_of(0, one.token)
    assert other.claim(0)


def test_whoever_states_no_batch_size_takes_that_of_the_run(tmp_path: Path) -> None:
    store_in(tmp_path)
    late = RunStore(tmp_path, "jsonl")
    own = {"model": "m", "batch_size": 32}
    assert late.open(own, automatic=["batch_size"])["batch_size"] == 8
    with pytest.raises(DataError, match="give --batch-size 8"):
        late.open(own)


def test_the_way_out_of_too_little_memory_names_another_folder(tmp_path: Path) -> None:
    class Full(Counting):
        def rows(self, inputs: Sequence[Input], missing: Set[int]) -> Iterator[tuple[int, Row]]:
            yield from itertools.islice(super().rows(inputs, missing), 2)
            raise OutOfMemoryError("a batch of 8 views does not fit; run again with -b 4")

    store = store_in(tmp_path)
    store.add_inputs(INPUTS)
    with pytest.raises(OutOfMemoryError, match="with -b 4, and name another folder with -o"):
        run_parts(store, Full(), write_jsonl)
    assert len(store.journaled(0)) == 2
    assert store.claim(0)


def test_an_owner_that_wakes_up_late_doubles_nothing(tmp_path: Path) -> None:
    late, quick = store_in(tmp_path), store_in(tmp_path)
    late.add_inputs(INPUTS[:2])
    assert quick.finish(0, [{"path": "quick"}], write_jsonl)
    assert not late.finish(0, [{"path": "late"}], write_jsonl)
    assert [row["path"] for row in all_rows(late)] == ["quick"]


def test_shards_share_the_parts(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add_inputs(INPUTS, part_size=5)
    shards = [Counting(), Counting()]
    for index, predictor in enumerate(shards):
        run_parts(store, predictor, write_jsonl, Shard(index, 2))
    assert [len(predictor.calls) for predictor in shards] == [15, 10]
    assert [row["path"] for row in all_rows(store)] == [one.path for one in INPUTS]


def test_failures_are_counted_and_tried_again(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.add_inputs(INPUTS, part_size=10)
    run_parts(store, Counting(), write_jsonl)
    status = read_status(store)
    assert (status.total, status.done, status.failed) == (25, 25, {"corrupt": 2})
    again = Counting(fixed=True)
    assert retry_failures(store, again, write_jsonl) == 2
    assert again.calls == ["/videos/7.mp4", "/videos/17.mp4"]
    assert read_status(store).failed == {}
    assert [row["path"] for row in all_rows(store)] == [one.path for one in INPUTS]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    store = RunStore(tmp_path, "jsonl")
    store.parts_folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = (f"{socket.gethostname()}-{pid}-0123abcd" for pid in (ended.pid, os.getpid()))
    left = [f".000002.claim.{dead}.tmp", f".000002.{dead}.tmp", f".time-{dead}"]
    left.append(f"000002.expired-{dead}")
    kept = [f".000002.claim.{alive}.tmp", ".000002.claim.other-1-0123abcd.tmp", "000001.list"]
    for name in (*left, *kept):
        (store.parts_folder / name).write_text("")
    store.clear_leftovers()
    assert sorted(path.name for path in store.parts_folder.iterdir()) == sorted(kept)
