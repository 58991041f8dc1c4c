"""Events that become visible below a position that is sealed already, and a policy that allows some."""

from __future__ import annotations

from pathlib import Path

import pytest
from chains import BITS, SOURCE, Chain, manifests, new_chain

from eventchain.formats.policy import Policy


def insert(chain: Chain, *positions: int) -> None:
    for position in positions:
        values = f"{position}, 's{position}', 0, 'e{position}', 't', 0, x'{position:04x}', NULL"
        chain.sql(chain.events_file, f"INSERT INTO events VALUES ({values})")


def seal(chain: Chain) -> None:
    with chain.working() as work:
        work.sealer.resume()
        work.sealer.seal_backlog(5)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Sealed with a gap: positions 10 to 19 and 30 to 39."""
    chain = new_chain(tmp_path, Policy(BITS, 64, 1000, 2, SOURCE))
    with chain.working() as work:
        work.append(0, 1)
    insert(chain, *range(10, 20), *range(30, 40))
    seal(chain)
    return chain


def test_late_events_enter_the_log_first_in_a_block(chain: Chain) -> None:
    insert(chain, 21, 22, 25, 40, 41)
    seal(chain)
    assert [said.late for said in manifests(chain) if said.late] == [2, 1]
    chain.check()
    insert(chain, 5)
    seal(chain)
    assert [said.late for said in manifests(chain) if said.late] == [2, 1, 1]
    assert manifests(chain)[-1].position == 41
    chain.check()


def test_a_late_event_that_waits_is_no_sealed_one(chain: Chain) -> None:
    insert(chain, 21)
    assert [(finding.kind, finding.position) for finding in chain.verify().wrong] == [("inserted", 21)]


def test_late_events_are_verified_like_others(chain: Chain) -> None:
    insert(chain, 21, 22)
    seal(chain)
    chain.sql(chain.events_file, "UPDATE events SET data = x'00' WHERE position = 21")
    assert [(finding.kind, finding.position) for finding in chain.verify().wrong] == [("altered", 21)]
    chain.sql(chain.events_file, "DELETE FROM events WHERE position IN (21, 22)")
    found = {
        (finding.kind, position)
        for finding in chain.verify().wrong
        for position in (finding.position, finding.last)
    }
    assert ("missing", 21) in found


def test_without_the_policy_a_late_event_is_never_sealed(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    with chain.working() as work:
        work.append(0, 1)
    insert(chain, 10, 20)
    seal(chain)
    insert(chain, 15, 21)
    seal(chain)
    assert [(finding.kind, finding.position) for finding in chain.verify().wrong] == [("inserted", 15)]
