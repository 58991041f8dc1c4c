"""Commands that are killed with SIGKILL at random moments of their work."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SPARE = 10
"""Kills more than asked for, at most, where too few have hit."""


def command_line(*arguments: str) -> list[str]:
    """The command line of ``eventchain ARGUMENTS``."""
    return [sys.executable, "-m", "eventchain", *arguments]


def begun(folder: Path, *arguments: str, saying: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """``eventchain ARGUMENTS``, a process group of its own, once a line on stderr holds one of these words
    and so it is at work; at once, where none are given."""
    process = subprocess.Popen(
        command_line(*arguments),
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    if not saying:
        return process
    said = []
    for line in process.stderr:
        said.append(line)
        if any(word in line for word in saying):
            return process
    raise AssertionError("".join(said))


class Killer:
    """Kills at moments spread evenly over what the work took when it last ran to its end: the first process
    is left to run, and so does any that is quicker than its moment. The moments follow a machine that gets
    faster or slower."""

    def __init__(self) -> None:
        self.hits = 0
        self._chance = random.Random(time.time_ns())
        self._seconds: float | None = None

    def turns(self, kills: int, hits: int = 1) -> Iterator[int]:
        """Numbers from 0 on, for the first process and so many kills, and for more until so many have hit."""
        for number in range(kills + SPARE + 1):
            if number <= kills or self.hits < hits:
                yield number
        assert self.hits >= hits, "too few kills hit a process at work"

    def __call__(self, process: subprocess.Popen[str], group: bool = True) -> bool:
        """Whether it was hit before its end; with ``group``, everything it started is."""
        began = time.monotonic()
        with process:
            if self._seconds is not None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(self._chance.uniform(0, self._seconds))
                if not group:
                    process.kill()
                elif process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        if process.returncode == 0:
            self._seconds = time.monotonic() - began
            return False
        self.hits += 1
        return True
