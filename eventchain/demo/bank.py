"""A small bank on the ``eventsourcing`` library: an ordinary application that knows nothing of EventChain.

Amounts are whole cents. The same seed does the same business; ids follow from account numbers, only the
time of each event is the real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

OWNERS = ("Ada", "Boris", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jana", "Karel")


class Account(Aggregate):
    @event("Opened")
    def __init__(self, number: str, owner: str) -> None:
        self.number = number
        self.owner = owner
        self.balance = 0

    @staticmethod
    def create_id(number: str) -> UUID:
        return uuid5(NAMESPACE_URL, f"/accounts/{number}")

    @event("Deposited")
    def deposit(self, amount: int) -> None:
        self.balance += amount

    @event("Withdrawn")
    def withdraw(self, amount: int) -> None:
        self.balance -= amount

    @event("Sent")
    def send(self, amount: int, to: str) -> None:
        self.balance -= amount

    @event("Received")
    def receive(self, amount: int, sender: str) -> None:
        self.balance += amount


class Bank(Application[UUID]):
    def open_account(self, number: str, owner: str) -> None:
        self.save(Account(number=number, owner=owner))

    def account(self, number: str) -> Account:
        account: Account = self.repository.get(Account.create_id(number))
        return account

    def deposit(self, number: str, amount: int) -> None:
        account = self.account(number)
        account.deposit(amount=amount)
        self.save(account)

    def withdraw(self, number: str, amount: int) -> bool:
        """False when the account does not hold as much; then nothing happens."""
        account = self.account(number)
        if account.balance < amount:
            return False
        account.withdraw(amount=amount)
        self.save(account)
        return True

    def transfer(self, sender: str, receiver: str, amount: int) -> bool:
        """Both events in one transaction, or none and False when the sender does not hold as much."""
        source, target = self.account(sender), self.account(receiver)
        if source.balance < amount:
            return False
        source.send(amount=amount, to=receiver)
        target.receive(amount=amount, sender=sender)
        self.save(source, target)
        return True


@dataclass(frozen=True, slots=True)
class Balance:
    number: str
    owner: str
    stream: str
    cents: int


def open_bank(path: Path) -> Bank:
    """The bank on a SQLite file, which is made if it is not there."""
    return Bank(
        {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(path),
            "AGGREGATE_CACHE_MAXSIZE": "1000",  # else every command replays its account from the start
        }
    )


def do_business(bank: Bank, transactions: int, *, accounts: int = 40, seed: int = 1) -> None:
    """Open the accounts with a first deposit each, then do so many deposits, withdrawals and transfers."""
    random = Random(seed)
    numbers = [f"{1000 + index}" for index in range(accounts)]
    for index, number in enumerate(numbers):
        bank.open_account(number, OWNERS[index % len(OWNERS)])
        bank.deposit(number, 100 * random.randint(500, 5000))
    done = 0
    while done < transactions:
        number, other = random.sample(numbers, 2)
        amount = random.randint(500, 100_000)
        kind = random.random()
        if kind < 0.4:
            bank.deposit(number, amount)
            done += 1
        elif kind < 0.7:
            done += bank.withdraw(number, amount)
        else:
            done += bank.transfer(number, other, amount)


def balances(bank: Bank, *, accounts: int = 40) -> list[Balance]:
    """What the bank believes: every account replayed from its events."""
    held = (bank.account(f"{1000 + index}") for index in range(accounts))
    return [Balance(account.number, account.owner, account.id.hex, account.balance) for account in held]
