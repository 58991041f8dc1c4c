"""Going on with blocks that are built and not mined: a planted solution is never named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from chains import Chain, new_chain

from eventchain.errors import StoreError
from eventchain.formats.header import HEADER, meets_target


@pytest.fixture
def linked(tmp_path: Path) -> Chain:
    """Three blocks that are built and not mined."""
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 30)
        work.sealer.link_backlog(10)
    return chain


def header(chain: Chain, height: int) -> bytes:
    with chain.opened() as (store, _):
        return store.blocks(1, height, 1).headers.tobytes()


def plant(chain: Chain, height: int, planted: bytes) -> None:
    where = f"UPDATE blocks SET header = ? WHERE branch = 1 AND height = {height}"
    assert chain.sql(chain.chain_file, where, parameters=[planted]) == 1


def test_what_was_linked_is_mined(linked: Chain) -> None:
    with linked.working() as work:
        work.sealer.resume()
        work.sealer.seal_backlog(10)
        assert work.sealer.builder.trunk.sealed_height == 3
    linked.check()


def test_a_planted_time_is_no_solution(linked: Chain) -> None:
    raw = bytearray(header(linked, 2))
    for planted in range(1_800_000_000, 1_800_000_100):  # one in sixteen would be a solution
        raw[68:72] = struct.pack("<I", planted)
        if not meets_target(np.frombuffer(bytes(raw), HEADER))[0]:
            break
    plant(linked, 2, bytes(raw))
    with pytest.raises(StoreError, match="damaged"), linked.working():
        pass


def test_a_missing_block_is_not_gone_past(linked: Chain) -> None:
    linked.sql(linked.chain_file, "DELETE FROM blocks WHERE height = 2")
    with pytest.raises(StoreError, match="are missing"), linked.working():
        pass


def test_a_block_solved_from_elsewhere_stops_the_mine(linked: Chain, tmp_path: Path) -> None:
    other = linked.copy(tmp_path / "other")
    with other.working() as work:
        work.sealer.resume()
        work.sealer.seal_all()
    found = header(other, 2)
    with linked.working() as work:
        work.sealer.resume()
        plant(linked, 2, found)  # behind its back
        with pytest.raises(StoreError, match="has a solution from elsewhere"):
            work.sealer.seal_all()
    assert header(linked, 2) == found  # and is not replaced
