"""What each worker did."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass

from eventchain_stratum.protocol import STALE

MAX_ACCOUNTS = 4096
"""Names that are remembered; beyond, those are forgotten that left first."""
logger = logging.getLogger("eventchain")


@dataclass(slots=True)
class Account:
    """Counts of shares: right ones, those that came too late, other wrong ones. ``hashes``: expected for the
    right ones; ``blocks``: solved."""

    connections: int = 0
    accepted: int = 0
    stale: int = 0
    refused: int = 0
    hashes: int = 0
    blocks: int = 0

    def accept(self, work: int, solves: bool) -> None:
        self.accepted += 1
        self.hashes += work
        self.blocks += solves

    def refuse(self, code: int) -> None:
        if code == STALE:
            self.stale += 1
        else:
            self.refused += 1


class Accounts:
    """By the names that workers authorize with."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __getitem__(self, worker: str) -> Account:
        return self._accounts[worker]

    def join(self, worker: str) -> None:
        self._accounts.setdefault(worker, Account()).connections += 1
        logger.info("worker %r joined", worker)

    def leave(self, worker: str) -> None:
        account = self._accounts[worker]
        account.connections -= 1
        self._accounts.move_to_end(worker)
        logger.info(
            "worker %r left: %d shares, %d stale, %d refused, %d blocks, %d hashes",
            worker, account.accepted, account.stale, account.refused, account.blocks, account.hashes,
        )  # fmt: skip
        if len(self._accounts) > MAX_ACCOUNTS:
            gone = next((name for name, one in self._accounts.items() if not one.connections), None)
            if gone is not None:
                del self._accounts[gone]
