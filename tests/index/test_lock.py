from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from comir_search.errors import ComirSearchError
from comir_search.index.lock import LOCK_NAME, writer_lock
from comir_search.index.storage import Storage

HOLD = """
import sys, time
from comir_search.index.storage import Storage
from comir_search.index.lock import writer_lock
with writer_lock(Storage(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path / "index"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "index"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_told_who_is_first(holder, tmp_path):
    with (
        pytest.raises(
            ComirSearchError, match=f"written by process {holder.pid} on .*; wait until it has finished"
        ),
        writer_lock(Storage(tmp_path / "index")),
    ):
        pass


def test_the_lock_of_a_killed_writer_is_taken_over(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / "index" / LOCK_NAME).read_text())["pid"] == holder.pid
    with writer_lock(Storage(tmp_path / "index")):
        assert json.loads((tmp_path / "index" / LOCK_NAME).read_text())["pid"] == os.getpid()


def test_two_writers_in_one_process_are_kept_apart(tmp_path):
    storage = Storage(tmp_path)
    with writer_lock(storage):
        with pytest.raises(ComirSearchError, match="is being written by"), writer_lock(storage):
            pass
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    with writer_lock(storage):
        pass
    assert (tmp_path / LOCK_NAME).read_bytes() == b""


def test_a_writer_on_another_machine_is_believed(tmp_path):
    (tmp_path / LOCK_NAME).write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with (
        pytest.raises(
            ComirSearchError, match=f"process 7 on elsewhere; .*if it is gone, delete .*{LOCK_NAME}"
        ),
        writer_lock(Storage(tmp_path)),
    ):
        pass


def test_an_object_store_is_locked_by_content(tmp_path):
    storage = Storage(f"memory://{tmp_path.name}")
    with (
        writer_lock(storage),
        pytest.raises(ComirSearchError, match="is being written by"),
        writer_lock(storage),
    ):
        pass
    assert not storage.exists(LOCK_NAME)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    storage.write(LOCK_NAME, json.dumps({"host": socket.gethostname(), "pid": dead.pid}).encode())
    with writer_lock(storage):
        assert storage.exists(LOCK_NAME)
