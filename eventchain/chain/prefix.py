"""How far a branch is sealed, followed as it grows."""

from __future__ import annotations

from eventchain.chain.nodes import damaged
from eventchain.chain.tip import SCAN
from eventchain.contracts.chain_store import Branch, ChainStore
from eventchain.errors import FormatError, StoreError
from eventchain.formats.manifest import Manifest


class SealedPrefix:
    """How far a branch is sealed, the trunk where none is given: ``height`` of its newest sealed block (where
    none is: of the block below its ``first``, −1 for the trunk), ``size`` of the log and highest ``position``
    there. :meth:`advance` moves it on; it only reads what is new. Where events were removed from the log, it
    begins anew in the branch's next incarnation: leaves have other indices there, and ``branch`` another
    origin."""

    def __init__(self, store: ChainStore, branch: Branch | None = None) -> None:
        self.branch = branch or trunk_of(store)
        self.first = 0
        self.height, self.size = -1, 0
        self.position: int | None = None
        self._store = store
        self._begun = False
        self._take_on()

    def advance(self) -> bool:
        """Take on what was sealed since; whether there was anything. Raises StoreError where the branch is
        gone."""
        renewed = self._renew()
        return self._take_on() or renewed

    def _take_on(self) -> bool:
        if not self._begun and not self._begin():
            return False
        before, limit = self.height, 1  # one block tells whether there is news: thousands may be unmined
        while True:
            rows = self._store.blocks(self.branch.id, self.height + 1, limit)
            mined = rows.headers["time"] != 0
            count = len(rows) if mined.all() else int(mined.argmin())
            if count:
                if rows.heights[0] != self.height + 1 or rows.heights[count - 1] != self.height + count:
                    raise damaged(
                        f"of the blocks of {self.branch.origin} from {self.height + 1} on some are missing"
                    )
                self._take(self.height + count, rows.manifests[count - 1])
            if count < limit:
                return self.height > before
            limit = SCAN

    def _renew(self) -> bool:
        """Whether the branch is in another incarnation than it was."""
        now = next((branch for branch in self._store.branches() if branch.id == self.branch.id), None)
        if now is None:
            raise StoreError(
                f"the branch {self.branch.origin} is gone", hint="`eventchain erase --remine` closes branches"
            )
        if now == self.branch:
            return False
        self.branch, self._begun = now, False
        self.height, self.size, self.position = -1, 0, None
        return True

    def _begin(self) -> bool:
        """From the newest sealed block that the newest block names; whether there is a block yet."""
        newest = self._store.last_block(self.branch.id)
        if not len(newest):
            return False
        self._begun = True
        self.first = said_of(self._store.blocks(self.branch.id, 0, 1).manifests[0]).height
        self.height = self.first - 1
        sealed = said_of(newest.manifests[0]).sealed
        if sealed is not None and sealed.height > self.height:  # else it is the parent's, at the fork
            rows = self._store.blocks(self.branch.id, sealed.height, 1)
            if not len(rows) or rows.heights[0] != sealed.height:
                raise damaged(f"block {sealed.height} of {self.branch.origin} is missing")
            self._take(sealed.height, rows.manifests[0])
        return True

    def _take(self, height: int, manifest: bytes) -> None:
        said = said_of(manifest)
        self.height, self.size, self.position = height, said.size, said.position


def trunk_of(store: ChainStore) -> Branch:
    """The trunk. Raises StoreError where there is no chain."""
    trunk = next(iter(store.branches()), None)
    if trunk is None:
        raise StoreError("the chain store holds no chain", hint="`eventchain init` begins one")
    return trunk


def said_of(manifest: bytes) -> Manifest:
    """What a stored block says. Raises StoreError for what is no manifest."""
    try:
        return Manifest.parse(manifest)
    except FormatError as error:
        raise damaged(f"a block's manifest: {error.message}") from error
