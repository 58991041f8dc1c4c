"""How far the trunk is sealed, followed as it grows."""

from __future__ import annotations

from eventchain.chain.nodes import damaged
from eventchain.chain.tip import SCAN
from eventchain.contracts.chain_store import Branch, ChainStore
from eventchain.errors import FormatError, StoreError
from eventchain.formats.manifest import Manifest


class SealedPrefix:
    """How far the trunk is sealed: ``height`` of its newest sealed block (−1: none), ``size`` of the log and
    highest ``position`` there. :meth:`advance` moves it on; it only reads what is new."""

    def __init__(self, store: ChainStore) -> None:
        trunk = next(iter(store.branches()), None)
        if trunk is None:
            raise StoreError("the chain store holds no chain", hint="`eventchain init` begins one")
        self.trunk: Branch = trunk
        self.height, self.size = -1, 0
        self.position: int | None = None
        self._store = store
        newest = store.last_block(trunk.id)
        if len(newest) and (sealed := said_of(newest.manifests[0]).sealed) is not None:
            self._take(sealed.height, store.blocks(trunk.id, sealed.height, 1).manifests[0])
        self.advance()

    def advance(self) -> bool:
        """Take on what was sealed since; whether there was anything."""
        before, limit = self.height, 1  # one block tells whether there is news: thousands may be unmined
        while True:
            rows = self._store.blocks(self.trunk.id, self.height + 1, limit)
            mined = rows.headers["time"] != 0
            count = len(rows) if mined.all() else int(mined.argmin())
            if count:
                if rows.heights[0] != self.height + 1 or rows.heights[count - 1] != self.height + count:
                    raise damaged(f"of the blocks from {self.height + 1} on some are missing")
                self._take(self.height + count, rows.manifests[count - 1])
            if count < limit:
                return self.height > before
            limit = SCAN

    def _take(self, height: int, manifest: bytes) -> None:
        said = said_of(manifest)
        self.height, self.size, self.position = height, said.size, said.position


def said_of(manifest: bytes) -> Manifest:
    """What a stored block says. Raises StoreError for what is no manifest."""
    try:
        return Manifest.parse(manifest)
    except FormatError as error:
        raise damaged(f"a block's manifest: {error.message}") from error
