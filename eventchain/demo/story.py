"""The story that ``eventchain demo`` tells: a bank's events are sealed, edited behind its back, and each
edit is named. The commands it shows are the ones it runs, in processes of their own."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eventchain.demo import dba
from eventchain.demo.dba import Tampering
from eventchain.errors import EventChainError

BLOCK_EVENTS = 256
STORE = "eventsourcing+sqlite:///bank.db"
VERIFY = ("verify", "--anchor", "anchor.txt")
SECONDS = 4.0
"""How long the mining of all blocks may take, about."""


def prepare(folder: Path) -> Path:
    """Make the folder. Raises EventChainError when something is in it, or it cannot be made."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise EventChainError(
                f"{folder} exists already and is not an empty folder",
                hint=f"remove it (rm -r {shlex.quote(str(folder))}) or name another with --folder",
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EventChainError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder.resolve()


def difficulty_for(rate: float, blocks: int, seconds: float) -> int:
    """Bits at which so many blocks take about so long at ``rate`` hashes a second."""
    return max(8, round(math.log2(max(rate * seconds / blocks, 1.0))))


def unnamed(tamperings: Sequence[Tampering], findings: Sequence[dict[str, object]]) -> list[Tampering]:
    """Which of the tamperings no finding names by kind and position."""
    named = {(finding.get("kind"), finding.get("position")) for finding in findings}
    return [one for one in tamperings if (one.kind, one.position) not in named]


class Story:
    def __init__(self, folder: Path, console: Console, *, seconds: float = SECONDS) -> None:
        self._folder = folder
        self._console = console
        self._seconds = seconds

    def tell(self) -> bool:
        """Play it through. Returns whether all three edits were named, and nothing before or after."""
        events = self._open_the_bank()
        self._seal(events)
        tamperings = self._tamper()
        missed = self._catch(tamperings)
        clean = self._restore()
        self._say_what_next(tamperings)
        return clean and not missed

    # -- the five scenes

    def _open_the_bank(self) -> int:
        self._scene("1", "A bank at work")
        self._say(
            "A small bank, written on the Python library eventsourcing, opens 40 accounts and books 2,000 "
            "deposits, withdrawals and transfers. It keeps its events in SQLite, in bank.db, and knows "
            "nothing of EventChain."
        )
        self._python("-m", "eventchain.demo", "work", "bank.db")
        events = dba.count(self._folder / "bank.db")
        self._say(f"bank.db now holds {events:,} events.")
        return events

    def _seal(self, events: int) -> None:
        self._scene("2", "Its events are sealed")
        backend, rate = _fastest()
        blocks = math.ceil(events / BLOCK_EVENTS)
        bits = difficulty_for(rate, blocks, self._seconds)
        self._say(
            f"init makes a chain beside it. {BLOCK_EVENTS} events a block make {blocks} blocks, and a block "
            f"takes 2^{bits} hashes on average: chosen so that all of them cost this machine a few seconds. "
            f"The backend {backend} is the fastest here."
        )
        init = ["init", "--origin", "demo.example/bank", "--store", STORE, "--backend", backend]
        self._eventchain(*init, "--difficulty", f"{bits}", "--block-events", f"{BLOCK_EVENTS}")
        self._say("mine reads the bank's events, builds the blocks and seals each with proof of work.")
        self._eventchain("mine")
        self._say("status says what is sealed, and what it would cost to rewrite it.")
        self._eventchain("status")
        self._say(
            "verify reads every event again and holds it against the chain, and the chain against an anchor. "
            "Then it writes the newest anchor into the file, which in earnest is kept elsewhere."
        )
        self._eventchain(*VERIFY)

    def _tamper(self) -> list[Tampering]:
        self._scene("3", "Somebody with the database password")
        self._say("Three statements, straight in SQLite, once bank.db is backed up:")
        bank = self._folder / "bank.db"
        before = self._balances()
        dba.copy(bank, self._folder / "bank-untouched.db")
        tamperings = dba.plan(bank)
        for one in tamperings:
            self._say(one.story)
            self._console.print(f"{one.sql};", style="yellow", markup=False, highlight=False, soft_wrap=True)
            if dba.run(bank, one) != 1:
                raise EventChainError(f"the demo's own statement changed nothing: {one.sql}")
        self._say("The bank replays its events without complaint, and believes what it reads:")
        table = Table("account", "owner", "stream", "balance before", "balance now")
        for column in table.columns[3:]:
            column.justify = "right"
        for old, new in zip(before, self._balances(), strict=True):
            if old != new:
                cents = (f"{row['cents'] / 100:,.2f}" for row in (old, new))
                table.add_row(old["number"], old["owner"], f"{old['stream'][:12]}…", *cents)
        self._console.print(table)
        return tamperings

    def _catch(self, tamperings: list[Tampering]) -> list[Tampering]:
        self._scene("4", "Each change is named")
        code = self._eventchain(*VERIFY)
        findings = [json.loads(line) for line in self._lines(*VERIFY, "--json")]
        missed = unnamed(tamperings, findings)
        for one in missed:
            self._say(f"[bold red]Not named: {one.kind} at position {one.position}[/]")
        if not missed:
            places = ", ".join(f"{one.kind} at position {one.position}" for one in tamperings)
            self._say(f"All three are named: {places}. The exit code is {code}.")
        self._say(
            "To hide this, the forger must mine every block again, from the first changed one to the newest. "
            "That is quick here, where a block costs next to nothing; in earnest you choose what it costs. "
            "And even then an anchor that somebody kept elsewhere gives it away."
        )
        return missed

    def _restore(self) -> bool:
        self._scene("5", "The backup is put back")
        bank = self._folder / "bank.db"
        bank.rename(self._folder / "bank-tampered.db")
        (self._folder / "bank-untouched.db").rename(bank)
        return self._eventchain(*VERIFY) == 0

    def _say_what_next(self, tamperings: list[Tampering]) -> None:
        here = _near(self._folder)
        self._scene("", f"All of it is in {escape(str(here))}")
        table = Table.grid(padding=(0, 3))
        table.add_row("bank.db", "the bank's events, as they were sealed")
        table.add_row("bank-tampered.db", "the same with the three edits")
        table.add_row("chain.db", "the chain")
        table.add_row("eventchain.toml", "the configuration, with the anchor of the genesis")
        table.add_row("anchor.txt", "the newest anchor")
        self._console.print(table)
        self._say("To go on:")
        for line in self._next_commands(here, tamperings):
            self._console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)

    def _next_commands(self, here: Path, tamperings: list[Tampering]) -> list[str]:
        script = Path(sys.executable).with_name("eventchain")
        found = shutil.which("eventchain")
        lines = []
        if (found is None or Path(found) != script) and (activate := script.with_name("activate")).exists():
            lines.append(f". {shlex.quote(str(_near(activate)))}")
        return [
            *lines,
            f"cd {shlex.quote(str(here))}",
            f"eventchain verify --store {STORE.replace('bank.db', 'bank-tampered.db')}",
            "eventchain show 3  # the block of that height",
            f"eventchain show --position {tamperings[0].position}  # an event and its block",
            "eventchain --help",
        ]

    # -- telling and running

    def _scene(self, number: str, title: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{number + '. ' if number else ''}{title}[/]", align="left")

    def _say(self, text: str) -> None:
        self._console.print(f"\n{text}")

    def _eventchain(self, *arguments: str) -> int:
        """Show a command and run it; its output goes where ours goes."""
        self._console.print(f"\n$ eventchain {shlex.join(arguments)}", style="bold cyan", soft_wrap=True)
        self._console.file.flush()
        return self._run(arguments).returncode

    def _lines(self, *arguments: str) -> list[str]:
        """Run a command unseen."""
        return self._run(arguments, unseen=True).stdout.splitlines()

    def _run(self, arguments: Sequence[str], *, unseen: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "eventchain", *arguments],
            cwd=self._folder,
            env=_environment(),
            capture_output=unseen,
            text=True,
        )
        if done.returncode not in ((0, 1) if arguments[0] == "verify" else (0,)):
            said = f": {done.stderr.strip()}" if unseen else ""
            raise EventChainError(f"`eventchain {shlex.join(arguments)}` ended with {done.returncode}{said}")
        return done

    def _python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self._folder, env=_environment(), capture_output=True, text=True
        )
        if done.returncode:
            raise EventChainError(f"the bank failed: {done.stderr.strip()}")
        return done.stdout

    def _balances(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self._python("-m", "eventchain.demo", "balances", "bank.db"))
        return rows


def _fastest() -> tuple[str, float]:
    """The backend to mine with, and its hashes a second."""
    from eventchain.mining.backends import AUTO, choose, measure_all

    choice = choose(os.environ.get("EVENTCHAIN_BACKEND", AUTO))
    return choice.name, measure_all(choice.devices, 0.3)


def _near(path: Path) -> Path:
    """Relative when it lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _environment() -> dict[str, str]:
    """Ours, but the commands use the configuration file in their folder."""
    return {key: value for key, value in os.environ.items() if key != "EVENTCHAIN_CONFIG"}
