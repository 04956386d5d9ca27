from __future__ import annotations

import threading
import time

import pytest

from comir_search.compute.stages import run_stages


def results(items, stages, **options):
    return [item for item in run_stages(items, stages, **options) if item is not None]


def test_items_pass_all_stages_in_order():
    assert results(range(50), [lambda n: n + 1, lambda n: n * 2, str]) == [str(2 * n + 2) for n in range(50)]
    assert results([], [str]) == []


def test_stages_overlap():
    started = time.monotonic()
    results(range(8), [lambda n: time.sleep(0.1) or n] * 3)
    assert time.monotonic() - started < 0.1 * 8 * 3 * 0.7


def test_several_threads_of_one_stage_overlap():
    together = threading.Barrier(3, timeout=5)

    def compute(number):
        together.wait()
        return number

    assert sorted(results(range(9), [lambda n: n, compute, lambda n: n], threads=3)) == list(range(9))


def test_what_waits_is_bounded():
    made, used = [], []

    def use(number):
        time.sleep(0.01)
        used.append(number)
        return max(made) - number

    ahead = results(range(30), [lambda n: made.append(n) or n, use], waiting=1)
    assert max(ahead) <= 3
    assert used == list(range(30))


@pytest.mark.parametrize("per_stage", [1, 3])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_failure_is_raised_and_ends_all_threads(stage, per_stage):
    def fail(number):
        if number == 3:
            raise ValueError("three")
        return number

    stages = [lambda n: n] * 3
    stages[stage] = fail
    threads = threading.active_count()
    with pytest.raises(ValueError, match="three"):
        results(iter(range(1000)), stages, threads=per_stage)
    assert threading.active_count() == threads


def test_a_consumer_is_never_kept_waiting():
    ticks = run_stages([1], [lambda n: time.sleep(0.5) or n])
    gaps, before = [], time.monotonic()
    for _ in ticks:
        gaps.append(time.monotonic() - before)
        before = time.monotonic()
    assert len(gaps) >= 3
    assert max(gaps) < 0.4


def test_closing_waits_for_files_and_not_for_long_computations():
    written, release = [], threading.Event()

    def compute(number):
        if number:
            release.wait(10)
        return number

    def write(number):
        time.sleep(0.2)
        written.append(number)
        return number

    job = run_stages([0, 1, 2], [lambda n: n, compute, write])
    next(job)
    started = time.monotonic()
    job.close()
    assert time.monotonic() - started < 1
    count = len(written)
    release.set()
    time.sleep(0.3)
    assert len(written) == count <= 1
