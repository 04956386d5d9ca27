"""A bounded store of decoded chunks, shared by all readers of an index."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock

import numpy as np
from numpy.typing import NDArray

DEFAULT_CACHE_BYTES = 512 * 2**20

Chunk = NDArray[np.generic]


class ChunkCache:
    """Keep the chunks read last, up to a number of bytes; safe to use from threads.

    A chunk that two threads want at once is loaded once, and a failed load is
    not remembered. Chunks are handed out read-only, because they are shared.

    Parameters
    ----------
    max_bytes : int
        What the kept chunks may take together. A larger chunk is handed out
        without being kept.
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._chunks: OrderedDict[Hashable, Chunk] = OrderedDict()
        self._loading: dict[Hashable, Future[Chunk]] = {}
        self._n_bytes = 0
        self._lock = Lock()

    @property
    def n_bytes(self) -> int:
        """What the kept chunks take now."""
        return self._n_bytes

    def get(self, key: Hashable, load: Callable[[], Chunk]) -> Chunk:
        """Return the chunk of `key`, calling `load` where it is not kept."""
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
            pending = self._loading.get(key)
            if pending is None:
                mine = self._loading[key] = Future()
        if pending is not None:
            return pending.result()
        try:
            chunk = load()
            chunk.setflags(write=False)
        except BaseException as error:
            with self._lock:
                self._loading.pop(key, None)
            mine.set_exception(error)
            raise
        with self._lock:
            # `forget` takes a load in progress off the list: its chunk is handed out but not kept.
            if self._loading.get(key) is mine:
                del self._loading[key]
                self._keep(key, chunk)
        mine.set_result(chunk)
        return chunk

    def forget(self, is_outdated: Callable[[Hashable], bool] | None = None) -> None:
        """Drop the chunks whose keys `is_outdated` says are, or all of them."""
        with self._lock:
            for key in [key for key in self._chunks if is_outdated is None or is_outdated(key)]:
                self._n_bytes -= self._chunks.pop(key).nbytes
            for key in [key for key in self._loading if is_outdated is None or is_outdated(key)]:
                del self._loading[key]

    def _keep(self, key: Hashable, chunk: Chunk) -> None:
        if chunk.nbytes > self.max_bytes:
            return
        self._chunks[key] = chunk
        self._n_bytes += chunk.nbytes
        while self._n_bytes > self.max_bytes:
            _, dropped = self._chunks.popitem(last=False)
            self._n_bytes -= dropped.nbytes
