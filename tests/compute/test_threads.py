"""Threads that compute side by side."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from comir_search.compute.threads import MEMORY_BYTES, run_side_by_side, share_cores


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_are_in_the_order_of_the_jobs(two_cores) -> None:
    def work(number: int) -> int:
        time.sleep(0.02 * (number % 3))
        return number * number

    counts = []
    for done, results in run_side_by_side(work, [(number,) for number in range(9)]):
        counts.append(done)
        assert sum(result is not None for result in results) >= done
    assert results == [number * number for number in range(9)]
    assert counts[0] == 0 and counts[-1] == 9
    assert list(run_side_by_side(work, [])) == [(0, [])]


def test_each_core_has_a_job_of_its_own(two_cores) -> None:
    both = threading.Barrier(2, timeout=5)

    def work() -> int:
        both.wait()
        return torch.get_num_threads()

    *_, (_, results) = run_side_by_side(work, [()] * 4)
    assert results == [1] * 4
    assert torch.get_num_threads() == 2


def test_nothing_runs_on_while_the_consumer_does_not_ask(two_cores) -> None:
    begun = []
    running = run_side_by_side(begun.append, [(number,) for number in range(100)])
    next(running)
    next(running)
    time.sleep(0.1)
    assert len(begun) <= 3
    running.close()
    assert len(begun) <= 3
    assert torch.get_num_threads() == 2


def test_the_more_memory_a_job_takes_the_fewer_run_at_a_time(two_cores) -> None:
    with share_cores(MEMORY_BYTES // 2) as n_threads:
        assert n_threads == 2
    with share_cores(MEMORY_BYTES // 2 + 1) as n_threads:
        assert n_threads == 1
    *_, (_, results) = run_side_by_side(torch.get_num_threads, [()], bytes_each=2 * MEMORY_BYTES)
    assert results == [2]  # alone, it may use all cores


def test_calls_at_the_same_time_all_see_all_cores(two_cores) -> None:
    inner, release = threading.Event(), threading.Event()
    seen: list[int] = []

    def first() -> None:
        for _ in run_side_by_side(inner.set, [()] * 2):
            pass
        release.wait(5)

    def second() -> None:
        with share_cores() as n_threads:
            seen.append(n_threads)
            release.wait(5)

    jobs = run_side_by_side(lambda: None, [()] * 4)
    next(jobs)
    next(jobs)
    threads = [threading.Thread(target=call) for call in (first, second)]
    for thread in threads:
        thread.start()
    inner.wait(5)
    while not seen:
        time.sleep(0.01)
    jobs.close()
    release.set()
    for thread in threads:
        thread.join()
    after = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    after.start()
    after.join()
    assert seen == [2, 2]


def test_what_a_job_raises_is_raised(two_cores) -> None:
    def work(number: int) -> None:
        if number == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        list(run_side_by_side(work, [(number,) for number in range(9)]))
    assert torch.get_num_threads() == 2
