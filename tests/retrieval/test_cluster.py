"""A search on a cluster comes to what the search in this process comes to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import shared_store
import tifffile
from patience import within

from comir_search.compute.cluster import Cluster
from comir_search.errors import ComirSearchError
from comir_search.evaluation.stages import search_stages_steps
from comir_search.index.index import Index
from comir_search.progress import finish
from comir_search.retrieval.options import SearchOptions
from comir_search.retrieval.search import search, search_steps
from comir_search.retrieval.workers import open_search_runner
from comir_search.slides import open_slide

distributed = pytest.importorskip("distributed")

URL = "shared://bucket/index"
PRELOAD = f"""
import sys, time
sys.path.insert(0, {str(Path(shared_store.__file__).parent)!r})
import shared_store
shared_store.register()
from comir_search.retrieval.scan import Scanner
if not hasattr(Scanner, "quick_scan"):  # a worker and its nanny may be one process
    Scanner.quick_scan = Scanner.scan
    def scan(*arguments):
        time.sleep(0.1)
        return Scanner.quick_scan(*arguments)
    Scanner.scan = scan
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the index of three slides, and a query of the second."""
    from comir_search.index.build import index_slides
    from comir_search.sample.synthetic_tissue import simulate_tissue_steps

    folder = tmp_path_factory.mktemp("search")
    written = {"photometric": "rgb", "resolution": (5000, 5000), "resolutionunit": "CENTIMETER"}
    (folder / "slides").mkdir()
    for seed in range(3):
        image = finish(simulate_tissue_steps(1400, 700, seed)).brightfield
        tifffile.imwrite(folder / "slides" / f"{seed}.tif", image, tile=(256, 256), **written)
        if seed == 1:
            tifffile.imwrite(folder / "query.tif", np.rot90(image[300:430, 500:600]), **written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(shared_store.ROOT, str(folder / "store"))
        shared_store.register()
        index_slides([folder / "slides"], URL, modality="bf", device="cpu")
    return folder


@pytest.fixture
def index(store, monkeypatch) -> Index:
    monkeypatch.setenv(shared_store.ROOT, str(store / "store"))
    shared_store.register()
    return Index.open(URL, "cpu")


@pytest.fixture(scope="module")
def shared_cluster(store):
    import dask

    (store / "preload.py").write_text(PRELOAD)
    with (
        pytest.MonkeyPatch.context() as patch,
        dask.config.set({"distributed.worker.preload": [str(store / "preload.py")]}),
    ):
        patch.setenv(shared_store.ROOT, str(store / "store"))
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            yield cluster


@pytest.fixture
def cluster(shared_cluster):
    """Two workers in processes of their own, which take their time over every tile; killed ones are there again."""
    with distributed.Client(shared_cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    return shared_cluster


def comparable(result) -> dict:
    """Return all of a result but how long it took."""
    stages = {name: [each.to_dict() for each in found] for name, found in result.first_stage.items()}
    return result.to_dict() | {"seconds": None, "stages": stages}


@pytest.mark.slow
def test_the_result_is_the_local_one_though_a_worker_is_killed(cluster, index, store):
    options = SearchOptions(modality="bf", mirror=True)
    query = open_slide(store / "query.tif")
    local = finish(search_stages_steps(index, query, options))
    assert local.candidates[0].slide == "1.tif" and len(local.candidates) == 10
    runner = open_search_runner(Index.open(URL, "cpu"), scheduler=cluster.scheduler_address)
    job = search_stages_steps(Index.open(URL, "cpu"), query, options, runner)
    killed, partials, stages = [], [], []
    try:
        while True:
            tick = next(job)
            stages.append(tick.stage)
            partials += [tick.partial] * (tick.partial is not None)
            if tick.stage == "coarse correlation" and tick.done > 1 and not killed:
                with distributed.Client(cluster, set_as_default=False) as client:
                    killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)
    except StopIteration as stop:
        shared = stop.value
    runner.close()
    query.close()
    assert killed and len(partials) > 1
    assert {"coarse correlation", "counting words", "bag of words", "pose, level 1"} <= set(stages)
    assert comparable(shared) == comparable(local)


@pytest.mark.slow
def test_cancelling_takes_less_than_a_second_and_leaves_the_cluster(cluster, index, store):
    runner = open_search_runner(index, scheduler=cluster.scheduler_address)
    job = search_steps(index, store / "query.tif", modality="bf", runner=runner)
    for tick in job:
        if tick.stage == "coarse correlation" and tick.done >= 1:
            break
    with within(1):
        job.close()
        runner.close()
    with distributed.Client(cluster, set_as_default=False) as client:
        assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0
        assert len(client.scheduler_info()["workers"]) == 2


@pytest.mark.slow
def test_the_command_starts_workers_and_searches_for_several(index, store, command, tmp_path):
    local = search(store / "query.tif", index, modality="bf").to_dict()
    # Not by its URL: the workers started here know nothing of the store.
    options = ("--index", store / "store" / "bucket" / "index", "--modality", "bf", "--workers", 2)
    again = tmp_path / "again.tif"
    shutil.copy(store / "query.tif", again)
    answer = command("search", store / "query.tif", again, *options, "--json", tmp_path / "out.json")
    assert answer.code == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert [result["query"] for result in results] == ["query.tif", "again.tif"]
    for result in [*results, local]:
        result["provenance"]["index"] = ""  # one index, reached by its URL and as a folder
    same = {"seconds": None, "query": None}
    assert [result | same for result in results] == [local | same] * 2


def test_damage_that_a_worker_meets_is_named(tmp_path, store, cluster):
    folder = Path(shutil.copytree(store / "store" / "bucket" / "index", tmp_path / "index"))
    for chunk in folder.glob("slides/*/comir/2/c/0/0/*"):
        chunk.write_bytes(b"damaged")
    with pytest.raises(ComirSearchError, match=r"damaged in array comir/2.*comir-search repair"):
        search(store / "query.tif", Index.open(folder), modality="bf", scheduler=cluster.scheduler_address)


def test_a_lost_scheduler_is_no_failure_between_two_stages():
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as local:
        cluster = Cluster(scheduler=local.scheduler_address)
        assert cluster.n_threads >= 1
    try:
        assert cluster.n_threads == 1
    finally:
        cluster.close()


def test_without_distributed_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(
        ComirSearchError, match=r"needs the package distributed; install it with `pip install"
    ):
        Cluster(workers=2)


def test_a_scheduler_that_does_not_answer_is_named(command, store, index, monkeypatch):
    from comir_search.compute import cluster as module

    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    where = ("--index", store / "store" / "bucket" / "index")
    answer = command("search", store / "query.tif", *where, "--scheduler", "tcp://127.0.0.1:9")
    assert (answer.code, answer.out) == (1, "")
    assert answer.sentence.startswith("No scheduler answers at tcp://127.0.0.1:9; start one")
    assert command("search", store / "query.tif", *where, "--scheduler", "x", "--workers", 2).code == 2
