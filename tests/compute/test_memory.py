"""What threads have freed goes back to the system."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone keeps it")
def test_memory_is_given_back(run_python) -> None:
    before_mb, after_mb = run_python(
        """
import psutil
from comir_search.compute.memory import give_memory_back
held = [bytearray(100_000) for _ in range(3000)]
pins = [bytearray(100_000) for _ in range(2)]
del held
memory_mb = lambda: psutil.Process().memory_info().rss / 1e6
before = memory_mb()
give_memory_back()
print(before, memory_mb())
"""
    ).split()
    assert float(after_mb) < 150 < float(before_mb)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives them back")
def test_large_blocks_are_used_again(run_python) -> None:
    faults = run_python(
        """
import resource
from threading import Thread
from comir_search.compute.memory import reuse_large_blocks
reuse_large_blocks()
def work():
    for _ in range(50):
        bytearray(b"x") * 40_000_000
def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = Thread(target=work)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
count_faults()
print(count_faults())
"""
    )
    assert int(faults) < 20_000  # the system hands out ten thousand pages for each block
