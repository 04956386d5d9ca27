from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from comir_search.compute.cache import ArrayCache


def chunk(n_bytes: int = 100):
    return np.zeros(n_bytes, np.uint8)


def test_chunks_used_last_are_kept_within_the_bound():
    cache, loaded = ArrayCache(300), []

    def get(key):
        return cache.get(key, lambda: loaded.append(key) or chunk())

    for key in "abc":
        get(key)
    get("a")
    get("d")  # b was used least lately
    assert cache.n_bytes == 300
    get("a"), get("c"), get("d")
    assert loaded == ["a", "b", "c", "d"]
    get("b")
    assert loaded[-1] == "b"
    assert cache.n_bytes == 300


def test_a_chunk_larger_than_the_cache_is_handed_out_and_not_kept():
    cache = ArrayCache(50)
    assert cache.get("a", chunk).nbytes == 100
    assert cache.n_bytes == 0


def test_chunks_are_read_only_because_they_are_shared():
    with pytest.raises(ValueError, match="read-only"):
        ArrayCache().get("a", chunk)[0] = 1


def test_two_threads_load_a_chunk_once():
    cache, loads, got = ArrayCache(), [], []

    def load():
        loads.append(1)
        time.sleep(0.05)
        return chunk()

    threads = [threading.Thread(target=lambda: got.append(cache.get("a", load))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert all(one is got[0] for one in got)


def test_a_failed_load_is_raised_and_tried_again():
    cache = ArrayCache()

    def fail():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get("a", fail)
    assert cache.get("a", chunk).nbytes == 100


def test_forgotten_chunks_are_loaded_again():
    cache = ArrayCache()
    first, other = cache.get(("a", 1), chunk), cache.get(("b", 1), chunk)
    cache.forget(lambda key: key[0] == "a")
    assert cache.get(("a", 1), chunk) is not first
    assert cache.get(("b", 1), chunk) is other
    assert cache.n_bytes == 200
    cache.forget()
    assert cache.n_bytes == 0


def test_an_array_over_the_limit_is_kept_alone_if_wanted():
    cache = ArrayCache(1000, keep_oversize=True)
    for number in range(20):
        cache.get(("slide", number), lambda: np.zeros(300, np.uint8))
        assert cache.n_bytes <= 1000
    large = cache.get(("slide", "large"), lambda: np.zeros(5000, np.uint8))
    assert cache.get(("slide", "large"), lambda: pytest.fail("made again")) is large
    assert cache.n_bytes == 5000
    cache.forget(lambda key: key[0] == "slide")
    assert cache.n_bytes == 0
