"""What headers are checked for apart from what their blocks say, many at a time: roots, links and work.

All of it can be worked out for each block by itself, from what stands in its own row: its link is compared
with what the next header says. So it is done side by side, ahead of the walk along the chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.contracts.chain_store import Blocks
from eventchain.formats import header as fmt
from eventchain.formats.hashing import equal_rows
from eventchain.formats.log import Hashes


class Derived(NamedTuple):
    """Of n rows. links: (n, 32) uint8; fits: (n,) bool, whether the header's merkle root is that of the
    manifest and extranonce; usable: (n,) bool, whether its bits are a target; met: (n,) bool, whether its
    hash meets that."""

    links: Hashes
    fits: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    met: NDArray[np.bool_]


def derived(runs: Iterable[Blocks]) -> Iterator[tuple[Blocks, Derived]]:
    """Each run of rows with what was derived of it, while the run before was used."""
    with ThreadPoolExecutor(1) as beside:
        before: tuple[Blocks, Future[Derived]] | None = None
        for rows in runs:
            coming = beside.submit(derive, rows)
            if before is not None:
                yield before[0], before[1].result()
            before = rows, coming
        if before is not None:
            yield before[0], before[1].result()


def derive(rows: Blocks) -> Derived:
    headers, extranonces = rows.headers, rows.extranonces
    manifests = pa.array(rows.manifests, pa.large_binary())
    roots = fmt.merkle_roots(manifests, np.zeros(len(rows), np.int64))
    links = fmt.links_of(headers["prev"], roots, headers["bits"])
    searched = np.flatnonzero(extranonces > 0)  # beyond what one extranonce offers
    if len(searched):
        roots[searched] = fmt.merkle_roots(manifests.take(pa.array(searched)), extranonces[searched])
    fits = equal_rows(roots, headers["merkle_root"]) & (extranonces >= 0)
    usable = fmt.are_targets(headers["bits"])
    if usable.all():
        return Derived(links, fits, usable, fmt.meets_target(headers))
    met = np.zeros(len(rows), np.bool_)
    met[usable] = fmt.meets_target(headers[usable])
    return Derived(links, fits, usable, met)
