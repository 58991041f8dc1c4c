"""Other programs that hash headers, run beside ours where an environment variable names the program.

What each counts: cpuminer-opt and minerd double hashes of one 80-byte header, nonce by nonce, in their own
offline benchmark; hashcat's mode 21400 candidates for sha256(sha256(password)), two compressions each as for
a header after its midstate, on all OpenCL devices it finds; the phatk program prints what bfgminer's OpenCL
kernel of that name reaches, as ``N MH/s``. hashlib (OpenSSL) in a loop of ours is always there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

PATIENCE = 60.0
"""Seconds after which a peer that prints nothing is stopped."""


class Rate(NamedTuple):
    """Hashes a second of wall clock, and of CPU time where it can be told."""

    wall: float
    cpu: float | None = None


class Peer(NamedTuple):
    """beside: the CPU variant or the backend that it is measured against
    variable: the environment variable that names its program (and arguments)
    run: of the program, the number of threads and about how many seconds
    """

    name: str
    beside: str
    variable: str
    run: Callable[[list[str], int, float], Rate]

    def rate(self, threads: int, seconds: float) -> Rate:
        """Raises SystemExit when the program cannot be run or prints no rate."""
        return self.run(shlex.split(os.environ.get(self.variable, "")), threads, seconds)


def cpuminer_rate(program: list[str], threads: int, seconds: float) -> Rate:
    """It prints each thread's rate after each scan of a second. Its ``Total`` divides by whole seconds and is
    not used. Without ``--cpu-priority`` its threads only get what other processes leave."""
    options = ["--algo=sha256d", "--benchmark", "--hash-meter", "--no-color", "--scantime=1"]
    command = [*program, *options, "--cpu-priority=2", f"--threads={threads}"]
    return _scans(command, r"Thread (\d+), CPU \d+: (?P<rate>[\d.]+) (?P<unit>[kMG]?)h/s", threads, seconds)


def minerd_rate(program: list[str], threads: int, seconds: float) -> Rate:
    """It prints each thread's hashes after each scan of a second."""
    command = [*program, "--algo=sha256d", "--benchmark", "--scantime=1", f"--threads={threads}"]
    return _scans(command, r"thread (\d+): (?P<hashes>\d+) hashes", threads, seconds)


def hashcat_rate(program: list[str], threads: int, seconds: float) -> Rate:
    """All devices together; it settles itself how long it measures."""
    said = _said_by([*program, "--benchmark", "--hash-type=21400", "--machine-readable"])
    speeds = re.findall(r"^\d+:21400:.*:(\d+)$", said, re.MULTILINE)
    if not speeds:
        raise SystemExit(f"{program[0]} printed no rate:\n{said}")
    return Rate(float(sum(map(int, speeds))))


def printed_rate(program: list[str], threads: int, seconds: float) -> Rate:
    said = _said_by(program)
    if not (found := re.search(r"([\d.]+) MH/s", said)):
        raise SystemExit(f"{program[0]} printed no rate:\n{said}")
    return Rate(1e6 * float(found[1]))


def hashlib_rate(program: list[str], threads: int, seconds: float) -> Rate:
    """On one core, whatever the number of threads."""
    head, count, began, worked = bytes(76), 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for nonce in range(10_000):
            hashlib.sha256(hashlib.sha256(head + nonce.to_bytes(4, "little")).digest()).digest()
        count += 10_000
    return Rate(count / (time.perf_counter() - began), count / (time.process_time() - worked))


HASHLIB = Peer("hashlib", "reference", "", hashlib_rate)
PEERS = (
    Peer("cpuminer-opt, AVX-512", "avx512", "EVENTCHAIN_PEER_CPUMINER", cpuminer_rate),
    Peer("cpuminer-opt, SHA-NI", "sha", "EVENTCHAIN_PEER_CPUMINER_SHANI", cpuminer_rate),
    Peer("cpuminer-opt, AVX2", "avx2", "EVENTCHAIN_PEER_CPUMINER_AVX2", cpuminer_rate),
    Peer("minerd", "avx2", "EVENTCHAIN_PEER_MINERD", minerd_rate),
    Peer("hashcat 21400", "opencl", "EVENTCHAIN_PEER_HASHCAT", hashcat_rate),
    Peer("bfgminer's phatk", "opencl", "EVENTCHAIN_PEER_PHATK", printed_rate),
)


def peers() -> list[Peer]:
    """hashlib and those whose variable is set; of the others a line is printed."""
    for peer in PEERS:
        if not os.environ.get(peer.variable):
            print(f"{peer.name} is left out: {peer.variable} does not name its program")
    return [HASHLIB, *(peer for peer in PEERS if os.environ.get(peer.variable))]


def _said_by(command: list[str]) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemExit(str(error)) from error
    return ran.stdout + ran.stderr


def _scans(command: list[str], pattern: str, threads: int, seconds: float) -> Rate:
    """The rate of a miner that prints a line for each scan of each thread: the thread and its hashes or rate.

    It is stopped upon such a line, so that with one thread its CPU time is that of the scans it told of.
    """
    try:
        miner = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise SystemExit(str(error)) from error
    stop = threading.Timer(PATIENCE, miner.kill)
    stop.start()
    began = time.perf_counter()
    ended: dict[str, list[float]] = defaultdict(lambda: [began])  # of each thread's scans
    hashes: dict[str, list[float]] = defaultdict(list)
    assert miner.stdout is not None
    for line in miner.stdout:
        if not (found := re.search(pattern, line)):
            continue
        now, scan = time.perf_counter(), found.groupdict()
        if "hashes" in scan:
            done = float(scan["hashes"])
        else:
            unit = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[scan["unit"]]
            done = float(scan["rate"]) * unit * (now - ended[found[1]][-1])
        ended[found[1]].append(now)
        hashes[found[1]].append(done)
        if len(ended) == threads and min(times[-1] - times[1] for times in ended.values()) >= seconds:
            break
    miner.kill()
    stop.cancel()
    miner.stdout.close()
    _, _, used = os.wait4(miner.pid, 0)
    miner.returncode = -9
    if len(ended) < threads or any(len(times) < 3 for times in ended.values()):
        raise SystemExit(f"{shlex.join(command)} printed no rate")
    # A thread's first scan, of a few hashes, only measures.
    wall = sum(sum(hashes[name][1:]) / (times[-1] - times[1]) for name, times in ended.items())
    busy = used.ru_utime + used.ru_stime
    return Rate(wall, sum(hashes["0"]) / busy if threads == 1 else None)
