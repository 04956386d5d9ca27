"""A bounded cache of decoded tiles, shared by all open slides."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class TileCache:
    """Least-recently-used cache of arrays, bounded by their bytes.

    The newest array is kept even if it alone exceeds the limit: a picture that
    can only be decoded whole is then decoded once.

    Parameters
    ----------
    limit_bytes : int
        Sum of the sizes of the arrays held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._arrays: OrderedDict[tuple[Hashable, ...], np.ndarray] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[Hashable, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of a key; `make` makes it if it is not in the cache.

        Two threads may make the same array at once. This costs less than a lock
        around every decoding.
        """
        with self._lock:
            found = self._arrays.get(key)
            if found is not None:
                self._arrays.move_to_end(key)
                return found
        made = make()
        made.flags.writeable = False
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = made
                self._held_bytes += made.nbytes
            while self._held_bytes > self.limit_bytes and len(self._arrays) > 1:
                self._held_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return made

    def drop(self, owner: Hashable) -> None:
        """Forget the arrays whose key starts with `owner`."""
        with self._lock:
            for key in [key for key in self._arrays if key[0] == owner]:
                self._held_bytes -= self._arrays.pop(key).nbytes

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        return self._held_bytes
