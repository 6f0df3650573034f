"""Results are computed ahead, in order and in bounded number, and no thread is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.runtime.processes import wait_until
from vtcli.runtime.prefetch import prefetch, prefetch_unordered


def singles(count: int) -> Iterator[list[int]]:
    return ([number] for number in range(count))


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("workers", [1, 4])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_for_even(number: int) -> int:
        time.sleep(0.002 * (number % 2 == 0))
        return number * number

    groups = [[0, 1, 2], [], [3], [4, 5]]
    found = list(prefetch(slow_for_even, groups, workers, ahead=4))
    assert found == [([0, 1, 2], [0, 1, 4]), ([], []), ([3], [9]), ([4, 5], [16, 25])]
    assert not prefetch_threads()


def test_work_begins_before_the_first_result_is_asked_for() -> None:
    begun = threading.Event()
    with closing(prefetch(lambda _: begun.set(), singles(3), workers=1, ahead=2)):
        assert begun.wait(5)


@pytest.mark.parametrize(("size", "ahead", "expected"), [(1, 3, 3), (1, 1, 2), (8, 4, 16)])
def test_no_more_than_asked_for_is_computed_ahead(size: int, ahead: int, expected: int) -> None:
    done: list[int] = []
    groups = ([number] * size for number in range(20))
    with closing(prefetch(done.append, groups, workers=2, ahead=ahead)) as results:
        for group in range(3):
            next(results)
            # Those of the group that was returned count.
            bound = expected + group * size
            wait_until(lambda bound=bound: len(done) >= bound)  # type: ignore[misc]
            time.sleep(0.02)
            assert len(done) == bound


def test_items_are_taken_only_as_they_are_needed() -> None:
    taken: list[int] = []

    def groups() -> Iterator[list[int]]:
        for number in range(100):
            taken.append(number)
            yield [number]

    with closing(prefetch(str, groups(), workers=1, ahead=3)) as results:
        assert len(taken) == 3
        next(results)
        next(results)
        assert len(taken) == 4


def test_an_exception_is_raised_in_its_place() -> None:
    def fail_at_two(number: int) -> int:
        if number == 2:
            raise KeyError(number)
        return number

    results = prefetch(fail_at_two, singles(5), workers=4, ahead=5)
    assert [next(results), next(results)] == [([0], [0]), ([1], [1])]
    with pytest.raises(KeyError):
        next(results)
    assert list(results) == []
    assert not prefetch_threads()


def test_closing_cancels_what_has_not_begun_and_leaves_no_thread() -> None:
    release, begun = threading.Event(), list[int]()

    def wait(number: int) -> None:
        begun.append(number)
        release.wait(20)

    results = prefetch(wait, singles(20), workers=2, ahead=10)
    wait_until(lambda: len(begun) == 2)
    threading.Timer(0.1, release.set).start()
    results.close()
    assert sorted(begun) == [0, 1]
    assert not prefetch_threads()


def test_an_exception_of_the_caller_leaves_no_thread() -> None:
    results = prefetch(str, singles(20), workers=2, ahead=4)
    with suppress(KeyboardInterrupt), closing(results):
        next(results)
        raise KeyboardInterrupt
    assert not prefetch_threads()


def test_an_iteration_that_is_abandoned_leaves_no_thread() -> None:
    results = prefetch(str, singles(20), workers=2, ahead=4)
    next(results)
    del results
    assert not prefetch_threads()


def test_a_result_that_the_caller_drops_is_not_kept() -> None:
    class Frames:
        alive = 0

        def __init__(self, _: int) -> None:
            Frames.alive += 1

        def __del__(self) -> None:
            Frames.alive -= 1

    with closing(prefetch(Frames, singles(6), workers=1, ahead=2)) as results:
        for _, frames in results:
            frames.pop()
            wait_until(lambda: Frames.alive <= 1)
    assert Frames.alive == 0


def test_no_items_give_no_results() -> None:
    assert list(prefetch(str, [], workers=1, ahead=2)) == []


def test_without_order_a_slow_item_holds_up_no_other_and_a_pause_is_told() -> None:
    release, most = threading.Event(), 0

    def slow_for_zero(number: int) -> int:
        nonlocal most
        most = max(most, number)
        if number == 0:
            release.wait(10)
        return number * number

    results = prefetch_unordered(slow_for_zero, range(9), 2, lambda: 4, lambda: 0.2)
    with closing(results):
        (first,) = [next(results)]
        assert first == (1, 1)
        assert most <= 4  # at most four in progress or ready
        found = [first, *(next(results) for _ in range(7))]
        assert found == [(n, n * n) for n in range(1, 9)]
        assert next(results) is None
        release.set()
        assert list(results) == [(0, 0)]
    assert not prefetch_threads()
