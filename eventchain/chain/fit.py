"""Whether an event store and a chain store belong together: a quick look, before anything is sealed.

An older copy, another store of the same kind or another chain would otherwise be sealed on, and a chain
cannot be unsealed. This is no verification; it reads one event.
"""

from __future__ import annotations

from collections.abc import Sequence

from eventchain.chain.nodes import LogReader
from eventchain.chain.tip import block_link
from eventchain.contracts.chain_store import Branch, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import FormatError, StoreError
from eventchain.formats.anchor import Anchor
from eventchain.formats.manifest import Manifest, base_origin, incarnation_of
from eventchain.formats.policy import other_source

HINT = "check `store` and `chain` in the configuration; `eventchain verify` names what is wrong"


def require_fit(store: ChainStore, events: EventStore, anchors: Sequence[Anchor]) -> None:
    """Raises StoreError where :func:`misfit` finds something."""
    if (reason := misfit(store, events, anchors)) is not None:
        raise StoreError(f"these stores do not belong together: {reason}", hint=HINT)


def misfit(store: ChainStore, events: EventStore, anchors: Sequence[Anchor]) -> str | None:
    """Why the stores cannot belong together, None where nothing speaks against it.

    The chain must contain the anchors of its trunk, the policy must name the event store's source, the
    event store must reach as far as the log, and the log's last event must be the one that was hashed.
    """
    trunk = next(iter(store.branches()), None)
    if trunk is None:
        return None
    for anchor in anchors:
        if base_origin(anchor.origin) != base_origin(trunk.origin):
            return f"the chain is {trunk.origin}, the anchor is of {anchor.origin}"
        if not _contains(store, trunk, anchor):
            return f"block {anchor.height} of the chain is not the anchored one"
    try:
        genesis, newest = store.blocks(trunk.id, 0, 1), store.last_block(trunk.id)
        policy = Manifest.parse(genesis.manifests[0]).policy
        said = Manifest.parse(newest.manifests[0])
    except (IndexError, FormatError):
        return "the chain's first or newest block is broken"
    if policy is not None and policy.source != events.source:
        return other_source(policy.source, events.source)
    if said.position is None:
        return None
    log = LogReader(store, trunk.id)
    index = log.find(said.position, said.size)
    salts = None if index is None else log.salts(index, index + 1)
    batch = events.read(said.position - 1 if said.position else None, 1)
    there = batch.num_rows and batch["position"][0].as_py() == said.position
    if not there and salts is not None and salts.erased.any() and not hasattr(events, "erase"):
        return None  # an erasure may take the whole row where the store is another application's
    if not batch.num_rows:  # not by the head: writers may hold it below what is sealed already
        head = events.head()
        where = "is empty" if head is None else f"ends at position {head}"
        return f"the event store {where}, the chain reaches to position {said.position}"
    if index is None or salts is None or not there:
        return f"the event at position {said.position}, the chain's last, is missing"
    if salts.leaves(batch).tobytes() != log.leaf(index):
        return f"the event at position {said.position} is not the one in the chain"
    return None


def _contains(store: ChainStore, trunk: Branch, anchor: Anchor) -> bool:
    """Whether the trunk, or what it replaced after a removal, has the anchored block. Of an incarnation whose
    archive was purged nothing can be said."""
    archived = [one.id for one in store.incarnations() if one.branch == trunk.id]
    for number in (trunk.id, *archived):
        block = store.blocks(number, anchor.height, 1)
        if not len(block) or block.heights[0] != anchor.height:
            continue
        if block.manifests[0].startswith(f"{anchor.origin}\n".encode()):
            return block_link(block, 0) == anchor.link
    return incarnation_of(anchor.origin) < incarnation_of(trunk.origin)
