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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone keeps it")
def test_large_blocks_are_given_back_when_they_are_freed(run_python) -> None:
    after_mb = run_python(
        """
import psutil
from comir_search.compute.memory import keep_large_blocks_apart
keep_large_blocks_apart()
bytearray(30_000_000)  # freed: glibc would cut what is smaller from its heap now
blocks, pins = [], []
for _ in range(40):
    blocks.append(bytearray(b"x") * 8_000_000)
    pins.append(bytearray(1000))
del blocks
print(psutil.Process().memory_info().rss / 1e6)
"""
    )
    assert float(after_mb) < 150


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has several heaps")
def test_threads_of_a_window_share_one_heap(run_python) -> None:
    heaps = run_python(
        """
import ctypes, re, tempfile
from threading import Barrier, Thread
from comir_search.compute.memory import keep_large_blocks_apart
keep_large_blocks_apart()
together = Barrier(9)
held = []
def work():
    together.wait()
    held.extend(bytearray(100_000) for _ in range(20))
    together.wait()
threads = [Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
together.wait()
together.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    told = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, told)
    libc.fclose(told)
    print(len(re.findall(rb"<heap nr", file.read())))
"""
    )
    assert int(heaps) <= 2


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
