from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from comir_search.errors import ComirSearchError
from comir_search.progress import Tick
from napari_comir_search.widgets.worker import JobRunner


@pytest.fixture
def runner(qtbot) -> Iterator[JobRunner]:
    runner = JobRunner()
    yield runner
    runner.close()
    qtbot.waitUntil(lambda: not runner.is_running, timeout=3000)


def count(steps: int, closed: list[str] | None = None, step_s: float = 0.02):
    try:
        for done in range(steps):
            yield Tick("counting", done, steps, partial=done)
            time.sleep(step_s)
        return "counted"
    finally:
        if closed is not None:
            closed.append(threading.current_thread().name)


def test_result_and_partial_results_arrive_in_order(qtbot, runner: JobRunner) -> None:
    partial, results, heard = [], [], []
    runner.ticked.connect(lambda tick, left: heard.append(threading.current_thread()))
    with qtbot.waitSignal(runner.ended, timeout=5000) as ended:
        runner.run("Counting", count(5), results.append, partial.append)
        assert runner.is_running
    assert ended.args == ["done"]
    assert results == ["counted"] and partial == [0, 1, 2, 3, 4]
    assert set(heard) == {threading.main_thread()}
    assert not runner.is_running


def test_cancel_closes_the_job_in_its_thread_within_a_second(qtbot, runner: JobRunner) -> None:
    closed: list[str] = []
    results: list[str] = []
    with qtbot.waitSignal(runner.ticked, timeout=5000):
        runner.run("Counting", count(10_000, closed), results.append)
    started_s = time.monotonic()
    with qtbot.waitSignal(runner.ended, timeout=5000) as ended:
        runner.cancel()
    assert time.monotonic() - started_s < 5  # a watchdog: the job takes minutes
    assert ended.args == ["cancelled"]
    assert len(closed) == 1 and closed[0] != threading.main_thread().name
    assert results == []


def test_an_expected_failure_is_one_sentence(qtbot, runner: JobRunner) -> None:
    def fail():
        yield Tick("failing", 0, 1)
        raise ComirSearchError("a.tif is empty: copy it again.")

    with qtbot.waitSignal(runner.failed, timeout=5000) as failed, qtbot.waitSignal(runner.ended) as ended:
        runner.run("Failing", fail())
    assert str(failed.args[0]) == "a.tif is empty: copy it again."
    assert ended.args == ["failed"]


def test_a_failing_receiver_is_told_too(qtbot, runner: JobRunner) -> None:
    def refuse(result: str) -> None:
        raise ComirSearchError("No room for it.")

    with qtbot.waitSignal(runner.failed, timeout=5000), qtbot.waitSignal(runner.ended):
        runner.run("Counting", count(1), refuse)


def test_a_new_job_takes_the_place_of_the_old_one(qtbot, runner: JobRunner) -> None:
    results: list[str] = []
    closed: list[str] = []
    runner.run("First", count(10_000, closed), lambda result: results.append("first"))
    qtbot.wait(50)
    runner.run("Second", count(2), lambda result: results.append("second"))
    runner.run("Third", count(2), lambda result: results.append("third"))
    qtbot.waitUntil(lambda: results == ["third"], timeout=5000)
    assert len(closed) == 1


def test_a_cancel_drops_the_job_that_waits_too(qtbot, runner: JobRunner) -> None:
    """Else a slide of a project that was left came onto the canvas of the next one."""
    results = []
    with qtbot.waitSignal(runner.ticked, timeout=5000):
        runner.run("First", count(10_000))
    runner.run("Second", count(2), results.append)
    with qtbot.waitSignal(runner.ended, timeout=5000):
        runner.cancel()
    qtbot.wait(200)
    assert not runner.is_running and results == []


def test_a_closed_runner_stays_silent(qtbot, runner: JobRunner) -> None:
    heard: list[object] = []
    closed: list[str] = []
    runner.ended.connect(heard.append)
    runner.run("Counting", count(10_000, closed), heard.append)
    qtbot.wait(50)
    runner.close()
    qtbot.waitUntil(lambda: bool(closed), timeout=2000)
    qtbot.wait(50)
    runner.run("Again", count(1), heard.append)
    qtbot.wait(50)
    assert heard == []


def test_a_job_pauses_until_its_partial_result_is_shown(qtbot, runner: JobRunner) -> None:
    """The window has much to do just then; a job that goes on takes half of a small machine from it."""
    seen: list[int] = []
    done: list[int] = []

    def steps():
        for number in range(3):
            yield Tick("counting", number, 3, partial=number)
            done.append(number)

    def show(number: int) -> None:
        time.sleep(0.1)
        assert done == seen
        seen.append(number)

    with qtbot.waitSignal(runner.ended, timeout=5000) as ended:
        runner.run("Counting", steps(), on_partial=show)
    assert ended.args == ["done"] and seen == done == [0, 1, 2]
