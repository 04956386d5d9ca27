from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import shared_store
import small
from index_files import assert_same_index
from patience import within

from comir_search.compute.cluster import Cluster
from comir_search.errors import ComirSearchError
from comir_search.index.build import index_slides_steps
from comir_search.index.cluster import ClusterRunner
from comir_search.index.index import Index
from comir_search.index.layout import CHUNK_PX, SlideGrid
from comir_search.progress import finish

distributed = pytest.importorskip("distributed")

PRELOAD = f"""
import sys, time
sys.path.insert(0, {str(Path(small.__file__).parent)!r})
import small, shared_store
from comir_search.model import embedding
small.install()
shared_store.register()
if not hasattr(embedding, "quick_embed"):  # a worker and its nanny may be one process
    embedding.quick_embed = embedding.embed_region
    def slow_embed(*arguments):
        time.sleep(0.1)
        return embedding.quick_embed(*arguments)
    embedding.embed_region = slow_embed
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two workers in processes of their own, with the small network."""
    import dask

    monkeypatch.setenv(shared_store.ROOT, str(tmp_path / "store"))
    (tmp_path / "preload.py").write_text(PRELOAD)
    with (
        dask.config.set({"distributed.worker.preload": [str(tmp_path / "preload.py")]}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        yield cluster


@pytest.fixture
def empty(model, slide_file, tmp_path) -> Path:
    return Index.create(tmp_path / "index", model, "bf", region_px=256).path


def test_a_cluster_gives_the_same_index_though_workers_are_killed(cluster, empty, slide_file, finished):
    job = index_slides_steps([slide_file], empty, scheduler=cluster.scheduler_address)
    killed = set()
    for tick in job:
        if tick.stage.startswith("embedding") and tick.done >= 4 * (len(killed) + 1) and len(killed) < 2:
            with distributed.Client(cluster, set_as_default=False) as client:
                pid = next(iter(client.run(os.getpid).values()))
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
    assert len(killed) == 2
    assert_same_index(empty, finished / "index")
    assert len(Index.open(empty).slides) == 1


def test_workers_find_an_index_that_only_its_url_names(cluster, model, slide_file, finished, tmp_path):
    shared_store.register()
    url = "shared://bucket/index"
    Index.create(url, model, "bf", region_px=256)
    index = finish(index_slides_steps([slide_file], url, scheduler=cluster.scheduler_address))
    assert (str(index.path), len(index.slides)) == (url, 1)
    assert_same_index(tmp_path / "store" / "bucket" / "index", finished / "index")


def test_cancelling_leaves_the_cluster_and_resumes_without_it(cluster, empty, slide_file, finished):
    job = index_slides_steps([slide_file], empty, scheduler=cluster.scheduler_address)
    for tick in job:
        if tick.stage.startswith("embedding") and tick.done >= 3:
            break
    job.close()
    ticks = []
    finish(index_slides_steps([slide_file], empty), ticks.append)
    resumed = next(tick for tick in ticks if tick.stage.startswith("embedding"))
    assert 3 <= resumed.done < resumed.total - 2  # of which the workers may have had one each
    assert_same_index(empty, finished / "index")


def test_what_a_worker_cannot_read_is_said(cluster, empty, slide_file):
    job = index_slides_steps([slide_file], empty, scheduler=cluster.scheduler_address)
    with pytest.raises(ComirSearchError, match=r"disc.tif does not exist"):
        for tick in job:
            if tick.stage.startswith("measuring") and tick.done == 1:
                slide_file.rename(slide_file.with_name("away.tif"))


def test_a_scheduler_that_does_not_answer_is_named(empty, slide_file, monkeypatch, command):
    from comir_search.compute import cluster as module

    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    answer = command("index", slide_file, "--index", empty, "--scheduler", "tcp://127.0.0.1:9")
    assert answer.code == 1
    assert answer.sentence.startswith("No scheduler answers at tcp://127.0.0.1:9; start one")
    assert command("index", slide_file, "--index", empty, "--scheduler", "x", "--workers", "2").code == 2


def count_faults() -> int:
    """Return how often the system had to give the calling process pages, for 16 large blocks one by one."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(16):
        bytearray(b"x") * (20 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


ONCE, EVERY_TIME = (20 << 20) // 4096, 16 * (20 << 20) // 4096


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives blocks back and takes them anew")
def test_workers_of_a_users_scheduler_reuse_memory_once_they_have_work(cluster, empty, slide_file):
    with distributed.Client(cluster, set_as_default=False) as client:
        assert client.submit(count_faults, pure=False).result() > 0.9 * EVERY_TIME
        finish(index_slides_steps([slide_file], empty, scheduler=cluster.scheduler_address))
        for worker in client.nthreads():
            assert client.submit(count_faults, pure=False, workers=[worker]).result() < 3 * ONCE


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives blocks back and takes them anew")
def test_workers_that_are_started_reuse_memory_from_the_first(monkeypatch):
    from comir_search.compute.memory import REUSE_ENVIRON

    for name in REUSE_ENVIRON:
        monkeypatch.delenv(name, raising=False)
    with closing(Cluster(workers=1)) as cluster:
        tasks = [(count_faults,), (os.getenv, "THP_MEM_ALLOC_ENABLE")]
        done = dict(
            chain.from_iterable(cluster.run(lambda client, item: client.submit(*tasks[item]), [0, 1]))
        )
    assert done[0] < 3 * ONCE
    assert done[1] == "1"


def test_workers_have_loaded_the_index_when_their_first_task_comes(cluster, empty):
    index = Index.open(empty)
    with closing(ClusterRunner(index, "cpu", scheduler=cluster.scheduler_address)) as runner:
        for future in runner._cluster._preparing:
            future.result(timeout=60)
        with distributed.Client(cluster, set_as_default=False) as client:
            assert list(client.run(count_loaded, *runner._where).values()) == [(1, 1), (1, 1)]


def count_loaded(*where: str) -> tuple[int, int]:
    """Return how many indexes a worker has opened, and how often it need not when a task opens this one."""
    from comir_search.index.cluster import WORKER_CACHE_BYTES, open_shared_index

    before = open_shared_index.cache_info()
    open_shared_index(*where, WORKER_CACHE_BYTES)
    return before.misses, open_shared_index.cache_info().hits - before.hits


def test_workers_that_are_started_leave_their_core_to_the_task():
    with closing(Cluster(workers=1)) as cluster:
        (results,) = [
            done for done in cluster.run(lambda client, _: client.submit(list_intervals), [0]) if done
        ]
    intervals_ms = results[0][1]
    assert "heartbeat" in intervals_ms
    assert min(intervals_ms.values()) >= 200, intervals_ms


def list_intervals() -> dict[str, float]:
    """Return how often the worker interrupts its task, by what for, in milliseconds."""
    callbacks = distributed.get_worker().periodic_callbacks
    return {name: callback.callback_time for name, callback in callbacks.items()}


def test_a_worker_that_cannot_prepare_works_all_the_same():
    def fail():
        raise ValueError("this is expected in the log of a test")

    with closing(Cluster(workers=1)) as cluster:
        cluster.prepare(fail)
        done = [found for found in cluster.run(lambda client, item: client.submit(abs, item), [-3]) if found]
    assert done == [[(-3, 3)]]


@pytest.mark.parametrize("begin", ["run", "prepare"])
def test_workers_that_are_started_end_at_once_whatever_they_do(begin, capfd):
    cluster = Cluster(workers=2)
    try:
        pids = [
            pid for pid in psutil.Process().children(recursive=True) if "spawn_main" in str(pid.cmdline())
        ]
        if begin == "run":
            running = cluster.run(lambda client, item: client.submit(time.sleep, item), [60, 61])
            next(running)
        else:
            cluster.prepare(time.sleep, 60)
        time.sleep(1)  # as good as nothing is known of what the workers do now
        if begin == "run":
            running.close()
    finally:
        with within(2):
            cluster.close()
    assert len(pids) >= 2 and not any(pid.is_running() for pid in pids)
    assert capfd.readouterr().err == ""


def test_regions_and_blocks_that_hold_most_go_first(index):
    layout = replace(index.layout, region_px=4 * CHUNK_PX * index.layout.stride)
    stored = np.random.default_rng(0).random((16, 16)) < 0.4
    side_px = len(stored) * CHUNK_PX * layout.stride
    grid = SlideGrid(layout, side_px, side_px, stored)
    record = replace(index.slides[0].record, name="larger")
    given, done = [], []

    class Recorded:
        def run(self, submit, items):
            given.append(list(items))
            yield [(item, None) for item in items]

    runner = ClusterRunner.__new__(ClusterRunner)
    runner._cluster, runner._where = Recorded(), (str(index.path), index.model_fingerprint, "cpu")
    target = SimpleNamespace(grid=grid, record=record)
    for _ in chain(
        runner.embed(None, target, grid.regions(), done.append),
        runner.derive(target, grid.blocks(), done.append),
    ):
        pass
    regions, blocks = given
    assert done == [*regions, *blocks]
    assert (sorted(regions), sorted(blocks)) == (grid.regions(), grid.blocks())
    for cells, chunks in ((regions, 4), (blocks, 8)):
        sizes = [
            stored[row * chunks : (row + 1) * chunks, column * chunks : (column + 1) * chunks].sum()
            for row, column in cells
        ]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) > 1
