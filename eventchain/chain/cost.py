"""Work: what a chain has cost in hashes, and what the cheapest rewrite of a part of it would cost.

Whoever changes event k must redo the blocks from k's on, but not the same blocks: he may pack as many
events into each as the policy allows. So a rewrite of m leaves costs at least ``ceil(m / events)`` blocks at
the bits of the policy in force below it; that minimum is what is priced here, beside what the blocks as
they stand have cost. Work is counted as Bitcoin does: ``2**256 // (target + 1)`` expected hashes a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eventchain.chain.tip import policy_at
from eventchain.chain.view import ChainView
from eventchain.contracts.chain_store import ChainStore
from eventchain.formats.header import work_of
from eventchain.formats.policy import Policy


@dataclass(frozen=True, slots=True)
class RewriteCost:
    """Rewriting the trunk from block ``height`` to its sealed head.

    blocks, leaves, hashes: as they stand; least_blocks, least_hashes: the least that a forger must mine
    """

    height: int
    blocks: int
    leaves: int
    hashes: int
    least_blocks: int
    least_hashes: int


def total_work(view: ChainView, first: int = 0) -> int:
    """Expected hashes of the trunk's sealed blocks from ``first`` on."""
    total = 0
    for rows in view.blocks(first, view.sealed_height + 1):
        bits, counts = np.unique(rows.headers["bits"], return_counts=True)
        total += sum(work_of(int(b)) * int(count) for b, count in zip(bits, counts, strict=True))
    return total


def least_blocks(leaves: int, policy: Policy) -> int:
    """The fewest blocks that hold so many leaves; a rewrite needs at least one."""
    return max(1, -(-leaves // policy.events))


def rewrite_cost(store: ChainStore, view: ChainView, height: int) -> RewriteCost:
    """The cost of a rewrite from a sealed block on.

    The policy is the one in force below ``height``: a tighter one that was stated later is rewritten too.
    """
    trunk = view.trunk
    policy = policy_at(store, view.tips, trunk.branch.origin, max(0, height - 1))
    leaves = view.size(trunk.sealed_height) - view.size(height - 1)
    least = least_blocks(leaves, policy)
    return RewriteCost(
        height=height,
        blocks=trunk.sealed_height - height + 1,
        leaves=leaves,
        hashes=total_work(view, height),
        least_blocks=least,
        least_hashes=least * work_of(policy.bits),
    )
