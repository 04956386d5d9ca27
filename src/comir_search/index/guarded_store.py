"""The Zarr store of an index in a folder. It writes and deletes nothing behind links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarr.storage import LocalStore

from comir_search.files import resolve_below

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


class GuardedStore(LocalStore):
    """A `LocalStore` that checks every key with `resolve_below` before it writes or deletes."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file; see `LocalStore`."""
        resolve_below(self.root, key)
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file unless it exists; see `LocalStore`."""
        resolve_below(self.root, key)
        await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Delete a file; see `LocalStore`."""
        resolve_below(self.root, key)
        await super().delete(key)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a file; see `LocalStore`."""
        resolve_below(self.root, key)
        super().set_sync(key, value)

    def delete_sync(self, key: str) -> None:
        """Delete a file; see `LocalStore`."""
        resolve_below(self.root, key)
        super().delete_sync(key)

    async def delete_dir(self, prefix: str) -> None:
        """Refuse: files of an index are only deleted one by one."""
        raise NotImplementedError(f"{prefix}: folders of an index are not deleted as a whole")

    async def clear(self) -> None:
        """Refuse, as `delete_dir` does."""
        raise NotImplementedError("an index is not deleted as a whole")
