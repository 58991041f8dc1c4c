"""Tests and measures the GPU backends on this host, in one go: what `make gpu` runs.

    python bench/gpu.py [--seconds 5]

The contract suite on cuda and opencl, then for every device one hard header and 10,000 headers of 12 bits,
with power, temperature and clock as nvidia-smi gives them meanwhile. Every solution is checked on the host.
ccminer's kernel is measured before and after them, where EVENTCHAIN_PEER_CUBIN names a cubin of it.
Writes bench/results/gpu-<date>.json. Exits 2 when there is no CUDA GPU, 1 when a test fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
from _ccminer import ccminer_rate, cubin
from _results import ROOT, heading, said_by, write

from eventchain.contracts.backend import NONCES, Device, Work
from eventchain.errors import BackendError
from eventchain.formats.header import HEADER, bits_for_difficulty, meets_target, with_counters, work_of
from eventchain.mining.backends import open_backend

SENSORS = ("index", "power.draw", "temperature.gpu", "clocks.sm", "utilization.gpu")
EASY_HEADERS, EASY_BITS = 10_000, 12


class Sensors:
    """Samples nvidia-smi every half second while it is entered."""

    def __enter__(self) -> Sensors:
        self.samples: list[dict[str, str]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            said = said_by("nvidia-smi", f"--query-gpu={','.join(SENSORS)}", "--format=csv,noheader,nounits")
            for line in said.splitlines():
                self.samples.append(dict(zip(SENSORS, line.split(", "), strict=False)))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def random_headers(n: int, bits: int) -> np.ndarray[Any, Any]:
    headers = np.frombuffer(np.random.default_rng().bytes(80 * n), HEADER).copy()
    headers["bits"] = bits
    return headers


def measure(device: Device, seconds: float) -> dict[str, Any]:
    """Rates of one device, in hashes a second."""
    hard = random_headers(1, bits_for_difficulty(100))
    zero = np.zeros(1, np.uint64)
    device.search(Work(hard, zero, 2**16))  # compiles
    count, taken = 2**16, 0.0
    while taken < min(seconds / 8, 0.25):  # find out how much lasts long enough
        count *= 4
        started = time.perf_counter()
        device.search(Work(hard, zero, count))
        taken = time.perf_counter() - started
    count = int(count * seconds / taken)
    rolls = 1 << (count // NONCES).bit_length()  # a header has more counters when its version rolls
    with Sensors() as sensors:
        started, busy = time.perf_counter(), time.process_time()
        device.search(Work(hard, zero, count, rolls))
        taken, busy = time.perf_counter() - started, time.process_time() - busy
    result: dict[str, Any] = {
        "one_header": {
            "rate": count / taken, "hashes": count, "rolls": rolls, "seconds": taken,
            "host_cpu_share": busy / taken, "sensors": sensors.samples,
        }
    }  # fmt: skip

    easy = random_headers(EASY_HEADERS, bits_for_difficulty(EASY_BITS))
    runs = []
    for _ in range(5):
        started = time.perf_counter()
        found = device.search(Work(easy, np.zeros(len(easy), np.uint64), NONCES))
        runs.append(time.perf_counter() - started)
        if (
            len(found.index) != len(easy)
            or not meets_target(with_counters(easy[found.index], found.counter, 1)).all()
        ):
            raise BackendError(f"{device.name} gave wrong answers")
    expected = EASY_HEADERS * work_of(bits_for_difficulty(EASY_BITS))
    result["easy_headers"] = {
        "headers": EASY_HEADERS, "bits": EASY_BITS, "seconds": runs, "expected_hashes": expected,
        "rate": expected / min(runs),
    }  # fmt: skip
    return result


def measure_peer(peer: str | None, seconds: float, rates: list[float]) -> None:
    if not peer:
        return
    try:
        rates.append(ccminer_rate(peer, seconds))
        print(f"ccminer's kernel: {rates[-1] / 1e6:.1f} MH/s")
    except BackendError as error:
        print(f"ccminer: {error}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="how long to measure each device")
    seconds: float = parser.parse_args().seconds
    try:
        backends = [open_backend("cuda")]
    except BackendError as error:
        print(f"no CUDA GPU to measure: {error}", file=sys.stderr)
        return 2
    try:
        backends.append(open_backend("opencl"))
    except BackendError as error:
        print(f"opencl is left out: {error}", file=sys.stderr)

    chosen = " or ".join(backend.name for backend in backends)
    tests = [sys.executable, "-m", "pytest", "-q", "tests/backends", "-k", chosen]
    if subprocess.run(tests, cwd=ROOT).returncode:
        print("the tests fail on this GPU: nothing is measured", file=sys.stderr)
        return 1

    report = heading("gpu") | {
        "gpus": said_by("nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader")
        .splitlines(),
        "devices": {},
        "ccminer": [],
    }  # fmt: skip
    peer = cubin()
    measure_peer(peer, seconds, report["ccminer"])
    for backend in backends:
        for device in backend.devices:
            try:
                result = measure(device, seconds)
            except BackendError as error:
                print(f"{backend.name}: {error}", file=sys.stderr)
                return 1
            report["devices"][f"{backend.name}: {device.name}"] = result
            one, easy = (result[kind]["rate"] / 1e6 for kind in ("one_header", "easy_headers"))
            print(
                f"{backend.name:7} {device.name:50} MH/s: {one:.1f} one header, {easy:.1f} 10,000 easy ones"
            )
    measure_peer(peer, seconds, report["ccminer"])
    write(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
