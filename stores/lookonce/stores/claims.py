"""Claims: two pushes of other content to one place at once would mix objects of one with receipts of the other.

Before it sends an object, a push writes a claim of what it will change, if there is none: for each seed the digest of
the seed's receipts, for a place without a cache that of the manifest. It goes on only if the claim there is its own,
word by word. So a push that was interrupted goes on, from any machine, and two pushes of the same content help each
other. A push of other content is refused until the first is complete. That one deletes its claims after receipts and
manifest are there, which refuse other content themselves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookonce.shared.errors import BusyError, StoreError
from lookonce.shared.files.atomic import json_bytes
from lookonce.stores.transport.transfer import Transfer

FOLDER = ".push"
"""Folder of claims below the URL of a cache."""
SECONDS_BETWEEN = 1.0
"""Wait before a claim is read again, in a store that ignores conditions: another push may write there meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a push will change: by name, a digest of the content."""

    digests: Mapping[str, str]
    """``manifest`` and ``seed-0000``."""

    def take(self, transfer: Transfer) -> bool:
        """Write all claims.

        Returns:
            Whether the store refuses to write an object that is there when it is told to. Otherwise two pushes that
            begin within the same moment may both believe that the place is theirs.

        Raises:
            BusyError: another push of other content has claimed one of them.
        """
        taken, conditional, name = list[str](), True, ""
        try:
            for name, digest in sorted(self.digests.items()):
                path, content = _path(name), json_bytes({"schema": "lookonce-push", "content": digest})
                if transfer.read(path) is None:
                    taken.append(name)
                    conditional &= _create(transfer, path, content)
                found = transfer.read(path)
                if found not in (None, content):  # None: another push of the same content has ended just now
                    raise BusyError(
                        f"{transfer.store.url}/{path}: a push of other content is under way here, or was interrupted: "
                        "wait for it to end, or run it again; if nobody will, delete this object, then push again"
                    )
        except BusyError:
            self._delete(transfer, [mine for mine in taken if mine != name])
            raise
        return conditional

    def drop(self, transfer: Transfer) -> None:
        """Delete the claims."""
        self._delete(transfer, sorted(self.digests))

    def _delete(self, transfer: Transfer, names: Sequence[str]) -> None:
        transfer.each(lambda name: transfer.ask(lambda: transfer.store.delete(_path(name))), names)


def _create(transfer: Transfer, path: str, content: bytes) -> bool:
    """Write a claim if there is none; whether the store heeds this condition."""
    try:
        created = transfer.ask(lambda: transfer.store.create(path, content))
        if not created or not transfer.ask(lambda: transfer.store.create(path, content)):
            return True
    except StoreError as error:
        if not error.unsupported:
            raise
        transfer.send_bytes(path, content)
    time.sleep(SECONDS_BETWEEN)
    return False


def _path(name: str) -> str:
    return f"{FOLDER}/{name}.json"
