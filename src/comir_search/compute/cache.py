"""A cache of decoded arrays, bounded by their bytes and shared by threads."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

DEFAULT_CACHE_BYTES = 512 * 2**20

Array = NDArray[np.generic]


class ArrayCache:
    """Keep the arrays that were used last, up to a number of bytes; safe to use from threads.

    If several threads want an array at once, it is loaded once. A failed load is
    not remembered. The arrays are read-only, because they are shared.

    Parameters
    ----------
    limit_bytes : int
        Sum of the sizes of the kept arrays.
    keep_oversize : bool
        Also keep the last array that is larger than the limit, so that a picture
        that can only be decoded whole is decoded once.
    """

    def __init__(self, limit_bytes: int = DEFAULT_CACHE_BYTES, *, keep_oversize: bool = False) -> None:
        self.limit_bytes, self.keep_oversize = limit_bytes, keep_oversize
        self._arrays: LRUCache[Hashable, Array] = LRUCache(limit_bytes, getsizeof=_count_bytes)
        self._oversize: dict[Hashable, Array] = {}
        self._loading: dict[Hashable, Future[Array]] = {}
        self._lock = Lock()

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays that are kept now."""
        return int(self._arrays.currsize) + sum(array.nbytes for array in self._oversize.values())

    def get(self, key: Hashable, load: Callable[[], Array]) -> Array:
        """Return the array of a key.

        Parameters
        ----------
        key : hashable
        load : callable
            Makes the array if it is not kept.
        """
        with self._lock:
            found = self._arrays.get(key)
            if found is None:
                found = self._oversize.get(key)
            if found is not None:
                return found
            pending = self._loading.get(key)
            if pending is None:
                mine = self._loading[key] = Future()
        if pending is not None:
            return pending.result()
        try:
            array = load()
            array.setflags(write=False)
        except BaseException as error:
            with self._lock:
                self._loading.pop(key, None)
            mine.set_exception(error)
            raise
        with self._lock:
            # `forget` removes a load from the list while it runs: its array is returned but not kept.
            if self._loading.get(key) is mine:
                del self._loading[key]
                self._keep(key, array)
        mine.set_result(array)
        return array

    def resize(self, limit_bytes: int) -> None:
        """Change the limit; what is kept stays, as far as it fits."""
        with self._lock:
            kept = self._arrays
            self.limit_bytes = limit_bytes
            self._arrays = LRUCache(limit_bytes, getsizeof=_count_bytes)
            for key, array in kept.items():
                if array.nbytes <= limit_bytes:
                    self._arrays[key] = array

    def forget(self, is_outdated: Callable[[Hashable], bool] = lambda _: True) -> None:
        """Remove the arrays of some keys, by default of all.

        Parameters
        ----------
        is_outdated : callable
            Called with a key; True if its array is to be removed.
        """
        with self._lock:
            for held in (self._arrays, self._oversize, self._loading):
                for key in [key for key in held if is_outdated(key)]:
                    del held[key]

    def _keep(self, key: Hashable, array: Array) -> None:
        if array.nbytes <= self.limit_bytes:
            self._oversize.clear()
            self._arrays[key] = array
        elif self.keep_oversize:
            self._arrays.clear()
            self._oversize = {key: array}


def _count_bytes(array: Array) -> int:
    return max(array.nbytes, 1)
