from __future__ import annotations

import threading
import time
from functools import partial

import pytest
from patience import within

from comir_search.compute.stages import run_stages


def results(items, stages, **options):
    return [item for item in run_stages(items, stages, **options) if item is not None]


def test_items_pass_all_stages_in_order():
    assert results(range(50), [lambda n: n + 1, lambda n: n * 2, str]) == [str(2 * n + 2) for n in range(50)]
    assert results([], [str]) == []


def test_stages_overlap():
    together = threading.Barrier(3, timeout=30)

    def work_on(number, stage):
        if number == 4 - stage:  # three items that follow each other, each in another stage
            together.wait()
        return number

    stages = [partial(work_on, stage=stage) for stage in range(3)]
    assert results(range(8), stages) == list(range(8))


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

    ahead = results(range(30), [lambda n: made.append(n) or n, use])
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
    go_on, given = threading.Event(), []
    for item in run_stages([1], [lambda n: go_on.wait(30) and n]):
        given.append(item)
        if len(given) == 3:
            go_on.set()
    assert given[:3] == [None] * 3
    assert given[-1] == 1


def test_closing_waits_for_files_and_not_for_long_computations():
    written, release = [], threading.Event()

    def compute(number):
        if number:
            release.wait(60)
        return number

    def write(number):
        time.sleep(0.2)
        written.append(number)
        return number

    job = run_stages([0, 1, 2], [lambda n: n, compute, write])
    next(job)
    with within(1):
        job.close()
    count = len(written)
    release.set()
    time.sleep(0.3)
    assert len(written) == count <= 1
