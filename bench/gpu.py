"""Tests and measures the GPU backends on this host, in one go: what `make gpu` runs.

    python bench/gpu.py [--seconds 3]

For every CUDA GPU: the contract suite; every variant of the kernel, with as many rolled versions as there are
to choose from, beside the rate that counting its instructions allows (bench/sass.py); KlausT's ccminer, where
EVENTCHAIN_PEER_CUDA names its cuda_bitcoin.cu, in turns with the variant that the backend chose; one hard
header and 10,000 of 12 bits. The same for OpenCL, without variants. Power, temperature and clock are as
nvidia-smi gives them meanwhile. Every solution is checked on the host.

Writes bench/results/gpu-<date>.json after every step, so that a run cut short keeps what it has. Exits 2 when
there is no CUDA GPU, 1 when a test or a step fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import _peer_cuda as peer_cuda
import numpy as np
import sass
from _results import ROOT, heading, said_by, write
from eventchain_kernels import CUDA_VARIANTS

from eventchain.contracts.backend import NONCES, Work
from eventchain.errors import BackendError
from eventchain.formats.header import HEADER, bits_for_difficulty, meets_target, with_counters, work_of
from eventchain.mining.backends import open_backend

SENSORS = ("index", "power.draw", "temperature.gpu", "clocks.sm", "utilization.gpu")
EASY_HEADERS, EASY_BITS = 10_000, 12
VERSIONS = (1, 2, 4, 8, 16)
TESTS_SECONDS = 240
COUNTED = (9, 0)
"""The compute capability for which bench/sass.py counts."""
# The block of height 1: the hash that a peer's kernel must find.
KNOWN = bytes.fromhex(
    "010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000"
    "982051fd1e4ba744bbbe680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299"
)


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

    def middle(self, sensor: str) -> float | None:
        """The median of a sensor's samples, over all GPUs."""
        values = []
        for sample in self.samples:
            try:
                values.append(float(sample[sensor]))
            except (KeyError, ValueError):  # [N/A]
                continue
        return median(values) if values else None

    def summary(self) -> dict[str, float | None]:
        return {
            "watts": self.middle("power.draw"),
            "celsius": self.middle("temperature.gpu"),
            "mhz": self.middle("clocks.sm"),
        }


def random_headers(n: int, bits: int) -> np.ndarray[Any, Any]:
    headers = np.frombuffer(np.random.default_rng().bytes(80 * n), HEADER).copy()
    headers["bits"] = bits
    return headers


def one_header(device: Any, seconds: float) -> dict[str, Any]:
    """The rate on a header that nobody solves, in hashes a second."""
    count = max(int(device.rate() * seconds), 1)
    rolls = max(1 << (count // NONCES).bit_length(), device.versions)  # more counters than nonces: it rolls
    hard, zero = random_headers(1, bits_for_difficulty(100)), np.zeros(1, np.uint64)
    with Sensors() as sensors:
        started, busy = time.perf_counter(), time.process_time()
        device.search(Work(hard, zero, count, rolls))
        taken, busy = time.perf_counter() - started, time.process_time() - busy
    return {
        "rate": count / taken, "hashes": count, "rolls": rolls, "seconds": taken,
        "host_cpu_share": busy / taken, **sensors.summary(),
    }  # fmt: skip


def easy_headers(device: Any) -> dict[str, Any]:
    headers = random_headers(EASY_HEADERS, bits_for_difficulty(EASY_BITS))
    runs = []
    for _ in range(5):
        started = time.perf_counter()
        found = device.search(Work(headers, np.zeros(len(headers), np.uint64), NONCES))
        runs.append(time.perf_counter() - started)
        if (
            len(found.index) != len(headers)
            or not meets_target(with_counters(headers[found.index], found.counter, 1)).all()
        ):
            raise BackendError(f"{device.name} gave wrong answers")
    expected = EASY_HEADERS * work_of(bits_for_difficulty(EASY_BITS))
    return {
        "headers": EASY_HEADERS, "bits": EASY_BITS, "seconds": runs, "expected_hashes": expected,
        "rate": expected / median(runs),
    }  # fmt: skip


def contract(backend: str) -> dict[str, Any]:
    tests = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--maxfail=3"]
    tests += ["tests/backends/test_contract.py", "-k", backend]
    started = time.perf_counter()
    ran = subprocess.run(
        tests, cwd=ROOT, timeout=TESTS_SECONDS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(f"{backend}: {ran.stdout.strip().splitlines()[-1]}")
    if ran.returncode:
        said = "\n".join(ran.stdout.splitlines()[-60:])
        raise BackendError(f"the contract suite fails\n{said}")
    return {"said": ran.stdout.strip().splitlines()[-1], "seconds": time.perf_counter() - started}


def counted() -> dict[tuple[str, int], sass.Cost]:
    """What bench/sass.py says of every variant; nothing where a tool is missing."""
    names = [(name, versions) for name in CUDA_VARIANTS for versions in VERSIONS]
    try:
        with ThreadPoolExecutor() as pool:
            kernels = pool.map(lambda name: sass.kernel(name[1], name[0]), names)
            return {name: kernel.cost for name, kernel in zip(names, kernels, strict=True)}
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"instructions are not counted: {error}", file=sys.stderr)
        return {}


def counted_peer(text: str) -> sass.Cost:
    cubin, _ = sass.compile_cubin(text, ())
    return sass.hash_cost(sass.code_of(sass.disassemble(cubin), peer_cuda.KERNEL), 1)


def limit(cost: sass.Cost | None, device: Any, mhz: float | None) -> float | None:
    """Hashes a second that counting allows at the clock that was read."""
    if cost is None or mhz is None or device.capability != COUNTED:
        return None
    return device.multiprocessors * mhz * 1e6 / cost.clocks


def row(name: str, result: dict[str, Any]) -> None:
    def shown(key: str, scale: float = 1, digits: int = 0) -> str:
        value = result.get(key)
        return "-" if value is None else f"{value * scale:.{digits}f}"

    share = result["rate"] / result["limit"] if result.get("limit") else None
    print(
        f"{name:32} {result['rate'] / 1e9:8.3f} GH/s {shown('limit', 1e-9, 2):>7} limit "
        f"{'-' if share is None else f'{share:.1%}':>6} {shown('watts'):>5} W {shown('celsius'):>4} °C "
        f"{shown('mhz'):>5} MHz",
        flush=True,
    )


def measure_variants(number: int, costs: dict[tuple[str, int], sass.Cost]) -> list[dict[str, Any]]:
    """Every variant twice for a second, all of them in turns; the rate is the mean of both."""
    from eventchain_cuda import CudaDevice

    devices = {
        (name, versions): CudaDevice(number, versions, [name])
        for name in CUDA_VARIANTS
        for versions in VERSIONS
    }
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {key: [] for key in devices}
    for _ in range(2):
        for key, device in devices.items():
            runs[key].append(one_header(device, 1))
    rows = []
    for (name, versions), both in runs.items():
        result = {"variant": name, "versions": versions, "rates": [run["rate"] for run in both]}
        result |= both[1] | {"rate": sum(result["rates"]) / 2}
        cost = costs.get((name, versions))
        result["instructions"] = cost and cost._asdict()
        result["limit"] = limit(cost, devices[name, versions], result["mhz"])
        row(f"{name}, {versions} versions", result)
        rows.append(result)
    return rows


def measure_peer(number: int, device: Any, seconds: float, count: bool) -> dict[str, Any]:
    """KlausT's kernel and the device, twice in turns; the kernel's instructions are counted too, or not."""
    import cupy

    file = peer_cuda.path()
    if file is None:
        print(f"the peer is left out: {peer_cuda.VARIABLE} is not set", file=sys.stderr)
        return {}
    with cupy.cuda.Device(number):
        peer = peer_cuda.Peer(file)
        nonce = int.from_bytes(KNOWN[76:], "big")
        peer.launch(KNOWN, nonce - 1000, 2**20)
        if peer.found() != nonce:
            raise BackendError("the peer's kernel does not find the nonce of a known block")
        runs: dict[str, list[float]] = {"peer": [], "ours": []}
        for _ in range(2):
            with Sensors() as sensors:
                runs["peer"].append(peer.rate(KNOWN, seconds))
            runs["ours"].append(one_header(device, seconds)["rate"])
        result = {
            "registers": peer.registers(), "rates": runs, "rate": sum(runs["peer"]) / 2, **sensors.summary(),
            "ratio": sum(runs["ours"]) / sum(runs["peer"]),
        }  # fmt: skip
        if count:
            cost = counted_peer(peer.text)
            result |= {"instructions": cost._asdict(), "limit": limit(cost, device, result["mhz"])}
    row("KlausT's ccminer", result)
    print(f"ours is {result['ratio']:.2f} times as fast")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="how long a measurement takes, about")
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

    report = heading("gpu") | {
        "gpus": said_by("nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader")
        .splitlines(),
        "errors": [],
    }  # fmt: skip

    def step(name: str, do: Callable[[], Any]) -> Any:
        """A failure is noted and the next step follows: time on a GPU is scarce."""
        result = None
        try:
            report[name] = result = do()
        except Exception as error:
            report["errors"].append(f"{name}: {type(error).__name__}: {error}")
            print(report["errors"][-1], file=sys.stderr)
        write(report)
        return result

    costs = counted()
    for backend in backends:
        if step(f"tests of {backend.name}", lambda b=backend: contract(b.name)) is None:
            continue  # what gives wrong answers is not measured
        for number, device in enumerate(backend.devices):
            name = f"{backend.name}: {device.name}"
            one = step(f"{name}, one header", lambda d=device: one_header(d, seconds))
            if one and backend.name == "cuda":
                cost = costs.get((device.variant, device.versions))
                one |= {"variant": device.variant, "limit": limit(cost, device, one["mhz"])}
                name += f" ({device.variant})"
            if one:
                row(name[:32], one)
            easy = step(f"{name}, 10,000 easy headers", lambda d=device: easy_headers(d))
            if easy:
                row("  10,000 headers of 12 bits", easy)
            if backend.name == "cuda":
                step(f"{name}, peer", lambda n=number, d=device: measure_peer(n, d, seconds, bool(costs)))
                step(f"{name}, variants", lambda n=number: measure_variants(n, costs))
    return 1 if report["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
