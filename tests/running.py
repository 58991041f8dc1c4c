"""``eventchain run`` as a process, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

UNFORCED = """if True:
    from eventchain.__main__ import main
    from eventchain.service import stop
    stop.STOP_SECONDS = 1e6
    main()
"""


class Process:
    """The service of a configuration file; its log is read by a thread. ``forced``: when it takes too long to
    stop, as it may where the machine is busy."""

    def __init__(self, config: Path, *arguments: str, forced: bool = True) -> None:
        program = ["-m", "eventchain"] if forced else ["-c", UNFORCED]
        command = [sys.executable, *program, "run", "-C", config, "--backend", "reference"]
        self._process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        self.log: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self.text.append(line)
                if line.startswith("{"):
                    self.log.append(json.loads(line))

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """The first line of the log that meets it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.log):
                if condition(line):
                    return line
            assert self._process.poll() is None, "".join(self.text)
            time.sleep(0.01)
        raise AssertionError("".join(self.text))

    def says(self, message: str) -> dict[str, Any]:
        return self.until(lambda line: line["message"] == message)

    def has_sealed(self, position: int) -> dict[str, Any]:
        return self.until(lambda line: line["message"] == "sealed" and (line["position"] or 0) >= position)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ended(self) -> int:
        """The exit code, when it has ended."""
        code = self._process.wait(60)
        self._reader.join()
        return code

    def send(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.ended()

    @contextmanager
    def ending(self) -> Iterator[Self]:
        """Killed on leaving, unless it has ended."""
        try:
            yield self
        finally:
            if self.alive:
                self.stop(signal.SIGKILL)
