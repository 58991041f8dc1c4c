"""The recipe of docs/run.md: a transfer is finished when its request is sealed, and not before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from click.testing import CliRunner
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

import eventchain
from eventchain.cli import cli

RECIPE = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")


class Transfer(Aggregate):
    @event("Requested")
    def __init__(self, id: UUID, amount: int) -> None:
        self._id = id
        self.amount = amount
        self.status = "requested"

    @event("Finished")
    def finish(self) -> None:
        self.status = "finished"


def recipe() -> Any:
    (code,) = re.findall(
        r"^```python\n(.*?finish_sealed_transfers.*?)^```$", RECIPE, re.MULTILINE | re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(code, names)
    return names["finish_sealed_transfers"]


def test_finished_means_sealed(tmp_path: Path) -> None:
    finish_sealed_transfers = recipe()
    transfers: Application[UUID] = Application(
        {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(tmp_path / "bank.db")}
    )

    def request(amount: int) -> UUID:
        transfer = Transfer(id=uuid4(), amount=amount)
        transfers.save(transfer)
        return transfer.id

    def status(id: UUID) -> str:
        transfer: Transfer = transfers.repository.get(id)
        return transfer.status

    first = request(100)
    config = str(tmp_path / "eventchain.toml")
    options = ["--store", "eventsourcing+sqlite:///bank.db", "--difficulty", "4", "--backend", "reference"]
    begun = CliRunner().invoke(cli, ["init", "-C", config, "--origin", "example.com/bank", *options])
    assert begun.exit_code == 0, begun.output
    with eventchain.open_chain(config) as chain:
        after = finish_sealed_transfers(chain, transfers, None)
        assert (after, status(first)) == (None, "requested")
        with chain.sealing("reference") as sealer:
            sealer.seal_backlog(10)
        second = request(200)  # after the sealing
        after = finish_sealed_transfers(chain, transfers, after)
        assert (status(first), status(second)) == ("finished", "requested")
        with chain.sealing("reference") as sealer:
            sealer.seal_backlog(10)
        assert finish_sealed_transfers(chain, transfers, after) == 3
        assert status(second) == "finished"

        # From the beginning again: nothing happens twice.
        before = transfers.recorder.max_notification_id()
        finish_sealed_transfers(chain, transfers, None)
        assert transfers.recorder.max_notification_id() == before
    transfers.close()
