"""What the cluster does with a task whose result does not come."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from comir_search.compute.cluster import ATTEMPTS, Cluster
from comir_search.errors import ComirSearchError

pytest.importorskip("distributed")


class Client:
    """A connected client whose futures are finished at once."""

    status = "running"

    def __init__(self, fetch: Callable[[int], Any]) -> None:
        self.fetch = fetch
        self.submitted, self.cancelled = 0, 0

    def nthreads(self) -> dict[str, int]:
        return {"worker": 1}

    def cancel(self, futures: list[Any]) -> None:
        self.cancelled += len(futures)


class Future:
    status = "finished"

    def __init__(self, client: Client) -> None:
        self.client = client
        client.submitted += 1
        self.number = client.submitted

    def result(self, timeout: float) -> Any:
        return self.client.fetch(self.number)

    def done(self) -> bool:
        return True

    def release(self) -> None: ...

    def cancel(self) -> None: ...


def run(fetch: Callable[[int], Any]) -> tuple[Client, list[Any]]:
    cluster: Any = Cluster.__new__(Cluster)
    cluster._client, cluster._cluster, cluster._again = Client(fetch), None, "run the same command again"
    cluster._workerless_since_s = None
    done = []
    for rounds, finished in enumerate(cluster.run(lambda client, _: Future(client), ["item"])):
        done += finished
        assert rounds < 50, "it goes on for ever"
    return cluster._client, done


@pytest.mark.parametrize("error", [TimeoutError, CancelledError, OSError])
def test_a_result_that_cannot_be_fetched_is_made_again(error):
    def fetch(number):
        if number < ATTEMPTS:
            raise error
        return number

    client, done = run(fetch)
    assert (client.submitted, done) == (ATTEMPTS, [("item", ATTEMPTS)])


def test_a_cluster_without_workers_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(Client, "nthreads", lambda _: {})
    monkeypatch.setattr(Future, "status", "pending")
    monkeypatch.setattr(Future, "done", lambda _: False)
    monkeypatch.setattr("comir_search.compute.cluster.WORKERLESS_S", 0.1)
    with pytest.raises(ComirSearchError, match="has had no worker for 0 seconds; start workers"):
        run(lambda _: None)


@pytest.mark.parametrize("error", [TimeoutError("no answer"), CancelledError(), OSError("broken pipe")])
def test_a_result_that_never_comes_is_a_stated_failure(error):
    def fetch(number):
        raise error

    with pytest.raises(ComirSearchError, match=r"lost .* 4 times \(.+\); see the workers' logs, .* again\.$"):
        run(fetch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"workers": 2, "scheduler": "tcp://127.0.0.1:9"},
            "^Give either the number of workers .* or the scheduler",
        ),
        ({"workers": 0}, "at least 1"),
        ({}, "^Give either the number of workers .* or the scheduler"),
    ],
)
def test_workers_and_scheduler_are_refused_together(arguments, message):
    with pytest.raises(ComirSearchError, match=message):
        Cluster(**arguments)
