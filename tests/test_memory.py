"""What threads have freed goes back to the system."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone keeps it")
def test_memory_is_given_back(run_python) -> None:
    before_mb, after_mb = run_python(
        """
import psutil
from comir_search.memory import give_memory_back
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
