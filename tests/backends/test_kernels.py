"""The device code: its core against hashlib, the CUDA shell run as C on this host, its machine code, and the
OpenCL kernel in every shape. What every backend must do is in test_contract.py."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eventchain_gpu_common
import numpy as np
import pyopencl
import pytest
from eventchain_gpu_common import SLOTS, KernelDevice, ready_bytes
from eventchain_kernels import CUDA_GROUP, CUDA_VARIANTS, CUDA_VERSIONS, cuda_options, source
from eventchain_kernels.native.sha256 import K
from eventchain_opencl import OpenCLDevice, Shape
from eventchain_opencl import open_backend as open_opencl
from eventchain_opencl_icd import intel_runtime, unusable
from eventchain_reference import ReferenceDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import BITCOIN

from eventchain.contracts.backend import NONCES, Work
from eventchain.errors import BackendError
from eventchain.formats.header import HEADER, bits_for_difficulty, meets_target, with_counters
from eventchain.mining.jobs import JOB, expand

BENCH = Path(__file__).parents[2] / "bench"
SASS = runpy.run_path(str(BENCH / "sass.py"))
IMPOSSIBLE = 0x01010000  # target 1
HEADERS = np.frombuffer(b"".join(bytes.fromhex(raw) for raw in BITCOIN.values()), HEADER)


def random_headers(seed: int, n: int, bits: int) -> np.ndarray:
    headers = np.frombuffer(np.random.default_rng(seed).bytes(80 * n), HEADER).copy()
    headers["bits"] = bits
    return headers


def job_of(header: np.ndarray, versions: int) -> tuple[np.ndarray, int]:
    """One job for the header as it stands, and which of its versions is the header's own."""
    rolls = 2**16
    roll = int(header["version"]) >> 13 & 0xFFFF
    counter = int(header["nonce"]) * rolls + roll
    work = Work(header.reshape(1), np.array([counter], np.uint64), 1, rolls)
    (job,) = expand(work, np.ones(1, np.bool_), hashes=1, versions=versions)
    assert len(job) == 1
    return job, roll - int(job["roll"][0])


def digest_of(header: np.ndarray) -> bytes:
    return hashlib.sha256(hashlib.sha256(header.tobytes()).digest()).digest()


# -- the text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["search.cl", "search.cu", "host.c"])
def test_source_is_one_text_without_includes(name):
    text = source(name)
    assert '#include "' not in text
    assert text.count("TABLE U32 SHA256_K[64]") == 1


# -- the core, built as C -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(1, "ALU"), (4, "FMA"), (8, "FP64")], ids=str)
def host(request, tmp_path_factory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here; the same text runs in the OpenCL tests")
    versions, pipe = request.param
    folder = tmp_path_factory.mktemp("host")
    (folder / "host.c").write_text(source("host.c"))
    flags = [
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fPIC",
        "-shared",
        f"-DVERSIONS={versions}",
        f"-DSIGMA_PIPE={pipe}",
    ]
    subprocess.run([compiler, *flags, "host.c", "-o", "host.so", "-lm"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "host.so"))
    library.word7.restype = ctypes.c_uint32
    library.versions = versions
    return library


def test_core_on_bitcoin_blocks(host):
    for header in HEADERS:
        job, version = job_of(header, host.versions)
        nonce = ctypes.c_uint32(int(header["nonce"]))
        assert host.word7(job.ctypes.data_as(ctypes.c_void_p), nonce, version) == 0
        assert host.meets_target(job.ctypes.data_as(ctypes.c_void_p), nonce, version) == 1
        nonce.value += 1
        assert host.word7(job.ctypes.data_as(ctypes.c_void_p), nonce, version) != 0
        assert host.meets_target(job.ctypes.data_as(ctypes.c_void_p), nonce, version) == 0


@given(raw=st.binary(min_size=76, max_size=76), nonce=st.integers(0, NONCES - 1))
def test_core_is_sha256d(host, raw, nonce):
    header = np.frombuffer(raw + nonce.to_bytes(4, "little"), HEADER)[0].copy()
    header["bits"] = 0x1D00FFFF
    job, version = job_of(header, host.versions)
    digest = digest_of(header)
    word7 = host.word7(job.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint32(nonce), version)
    assert word7 == int.from_bytes(digest[28:], "big")


@given(raw=st.binary(min_size=80, max_size=80), word=st.integers(0, 7))
def test_full_check_is_exact(host, raw, word):
    """At most the target: equal wins, one less in any word loses, one more wins."""
    header = np.frombuffer(raw, HEADER)[0].copy()
    header["bits"] = 0x1D00FFFF
    job, version = job_of(header, host.versions)
    number = int.from_bytes(digest_of(header), "little")
    for target, answer in ((number, 1), (number - 2 ** (32 * word), 0), (number + 2 ** (32 * word), 1)):
        if 0 <= target < 2**256:
            job["target"] = np.frombuffer(target.to_bytes(32, "little"), "<u4")
            nonce = ctypes.c_uint32(int(header["nonce"]))
            assert host.meets_target(job.ctypes.data_as(ctypes.c_void_p), nonce, version) == answer


class HostSession:
    """The CUDA shell's kernels, called where CudaSession launches them."""

    def __init__(self, library: ctypes.CDLL, headers: int, versions: int) -> None:
        assert versions == library.versions
        self.library = library
        self.winner, self.nonce = np.zeros(headers, np.uint32), np.zeros(headers, np.uint32)
        self.flying: set[int] = set()
        self.units: list[int] = []
        self.tried = 0

    def submit(self, slot: int, jobs: np.ndarray, chunk: int, units: int) -> None:
        assert slot not in self.flying
        self.flying.add(slot)
        self.units.append(units)
        self.tried += int(jobs["count"].sum()) * self.library.versions
        ready, counter = (
            np.zeros(ready_bytes(self.library.versions) * len(jobs), np.uint8),
            np.zeros(1, np.uint32),
        )
        data = [array.ctypes.data_as(ctypes.c_void_p) for array in (jobs, ready)]
        out = [array.ctypes.data_as(ctypes.c_void_p) for array in (counter, self.winner, self.nonce)]
        self.library.prepare_all(*data, len(jobs))
        self.library.search(*data, len(jobs), chunk, units, *out, 1)
        assert counter[0] == units + 1  # every unit was taken, and one look past the end

    def wait(self, slot: int) -> np.ndarray:
        self.flying.remove(slot)
        return self.winner.copy()

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        assert not self.flying
        return self.winner, self.nonce


class HostDevice(KernelDevice):
    name = "the CUDA shell as C"
    lanes = 1

    def __init__(self, library: ctypes.CDLL, rate: float) -> None:
        super().__init__()
        self.library, self.versions, self._rate = library, library.versions, rate
        self.sessions: list[HostSession] = []

    @contextmanager
    def session(self, headers: int, versions: int) -> Iterator[HostSession]:
        self.sessions.append(HostSession(self.library, headers, versions))
        yield self.sessions[-1]


def assert_same(work: Work, device: Any) -> None:
    """Hits for exactly the headers for which the reference has one, all valid, in range, none twice."""
    found = device.search(work)
    expected = ReferenceDevice().search(work)
    assert sorted(found.index.tolist()) == expected.index.tolist()
    start = work.start[found.index]
    assert ((found.counter >= start) & (found.counter - start < work.count)).all()
    assert meets_target(with_counters(work.headers[found.index], found.counter, work.rolls)).all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 20),
    difficulty=st.integers(0, 11),
    count=st.integers(0, 300),
    log_rolls=st.integers(0, 16),
    before_end=st.none() | st.integers(0, 300),
    rate=st.sampled_from([20, 2_000, 1e6, 1e12]),
)
def test_cuda_shell_as_c(host, seed, n, difficulty, count, log_rolls, before_end, rate):
    """All of a search but the GPU itself: jobs, launches of any size, units, claims, results."""
    rolls = max(2**log_rolls, host.versions)
    start = np.random.default_rng(seed).integers(0, rolls * NONCES, n, np.uint64)
    if before_end is not None:
        start[:] = rolls * NONCES - before_end
    work = Work(random_headers(seed, n, bits_for_difficulty(difficulty)), start, count, rolls)
    assert_same(work, HostDevice(host, rate))


def test_a_search_stops_when_all_is_found(host):
    device = HostDevice(host, rate=1000)
    headers = random_headers(5, 50, bits_for_difficulty(6))
    found = device.search(Work(headers, np.zeros(50, np.uint64), 2**40, 2**8))
    assert sorted(found.index.tolist()) == list(range(50))
    assert len(device.sessions[0].units) < 50 * 64


def test_rate_is_measured_once(host, monkeypatch):
    """By a clock that passes by a microsecond for each hash: what the machine does beside is not in it."""
    device = HostDevice(host, rate=0)
    clock = SimpleNamespace(perf_counter=lambda: 1e-6 * sum(session.tried for session in device.sessions))
    monkeypatch.setattr(eventchain_gpu_common, "time", clock)
    rate = device.rate()
    assert rate == pytest.approx(1e6)
    assert device.rate() == rate
    assert SLOTS == 2
    assert len(device.sessions) == 1


def test_rate_is_kept_for_other_processes(host, tmp_path, monkeypatch):
    monkeypatch.setenv("EVENTCHAIN_CACHE", str(tmp_path / "cache"))

    def device(identity: str) -> HostDevice:
        one = HostDevice(host, rate=0)
        one.identity = identity
        return one

    first = device("a device")
    rate = first.rate()
    again = device("a device")
    assert again.rate() == rate
    assert not again.sessions  # nothing was measured
    for identity in ("another device", ""):
        other = device(identity)
        other.rate()
        assert other.sessions
    (file,) = (path for path in (tmp_path / "cache").iterdir() if b"a device" in path.read_bytes())
    for damaged in (b"", file.read_bytes()[:-3], bytes(80)):
        file.write_bytes(damaged)
        measured = device("a device")
        measured.rate()
        assert measured.sessions


# -- the CUDA shell's machine code --------------------------------------------------------------------


CEILINGS = {
    # (versions, variant): at most so many ALU, FMA, FP64 and all instructions a hash
    (1, "imad"): (1815, 1055, 0, 2875),
    (1, "imad.hi"): (1660, 1210, 0, 2875),
    (1, "fp64"): (1420, 1155, 400, 2985),
    (CUDA_VERSIONS, "imad"): (1555, 920, 0, 2505),
    (CUDA_VERSIONS, "imad.hi"): (1465, 1010, 0, 2505),
    (CUDA_VERSIONS, "fp64"): (1325, 985, 230, 2575),
}


@pytest.mark.parametrize(("versions", "variant"), CEILINGS)
def test_cuda_instructions_a_hash(versions, variant):
    groups = CUDA_VARIANTS[variant].groups_an_sm
    kernel = SASS["kernel"](versions, variant)
    assert kernel.spilled == 0
    assert kernel.registers * CUDA_GROUP * groups <= 65_536
    assert groups * (kernel.shared + 1024) <= 228 * 1024  # 1 KB of a block's is the system's
    assert kernel.shared <= 48 * 1024
    cost, ceiling = kernel.cost, CEILINGS[versions, variant]
    for count, most in zip((cost.alu, cost.fma, cost.fp64, cost.all), ceiling, strict=True):
        assert 0.97 * most <= count <= most
    if variant != "imad":
        assert cost.h200_ghs >= (10.0 if versions == 1 else 11.4)


def test_cuda_compiles_without_a_stack():
    _, log = SASS["compile_cubin"](source("search.cu"), cuda_options(CUDA_VERSIONS, CUDA_VARIANTS["fp64"]))
    assert "warning" not in log.lower()
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert frames == [("0", "0", "0")] * 2  # search and prepare_jobs


def test_hash_cost_of_nested_loops():
    """Two turns of the inner loop to one of the outer; the detour, the prologue and the end do not count."""
    sass = """
.text.search:
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_1:
        /*0010*/                   STS.128 [R0], R4 ;
        /*0020*/                   IMAD R1, R1, R2, R3 ;
.L_x_2:
        /*0030*/                   LOP3.LUT R1, R1, R2, R3, 0x96, !PT ;
        /*0040*/                   LOP3.LUT R1, R1, R2, R3, 0x96, !PT ;
        /*0050*/                   DFMA.RZ R4, R6, R8, R10 ;
        /*0060*/                   BSSY B0, `(.L_x_3) ;
        /*0070*/              @P0 BRA `(.L_x_4) ;
        /*0080*/                   SHF.R.W.U32 R1, R1, 0x7, R1 ;
        /*0090*/                   SHF.R.W.U32 R1, R1, 0x7, R1 ;
.L_x_4:
        /*00a0*/                   BSYNC B0 ;
.L_x_3:
        /*00b0*/              @!P1 BRA `(.L_x_2) ;
        /*00c0*/              @!P2 BRA `(.L_x_1) ;
        /*00d0*/                   EXIT ;
.L_x_5:
        /*00e0*/                   BRA `(.L_x_5);
"""
    cost = SASS["hash_cost"](SASS["code_of"](sass, "search"), 2)
    assert cost == ((2 * 2) / 2, 1 / 2, 2 / 2, 4 / 2, (3 + 2 * 7) / 2)
    straight = sass.replace("@!P1 BRA `(.L_x_2)", "NOP").replace("@!P2 BRA `(.L_x_1)", "NOP")
    cost = SASS["hash_cost"](SASS["code_of"](straight, "search"), 1)
    assert cost == (2, 1, 1, 4, 12)  # all of it but the detour
    with pytest.raises(ValueError, match="CALL"):
        SASS["code_of"](sass.replace("EXIT", "CALL.REL"), "search")


def test_cuda_says_what_is_wrong_with_a_text():
    with pytest.raises(ValueError, match="error"):
        SASS["compile_cubin"]("__global__ void f() { nothing(); }", ())


def test_arguments_of_the_peers_kernel():
    """They are all of the header's first 76 bytes that a hash needs."""
    peer = runpy.run_path(str(BENCH / "_peer_cuda.py"))
    small0, small1 = peer["_s0"], peer["_s1"]
    for header in HEADERS:
        raw = header.tobytes()
        t1, t2, w16, w18, w17, w19, b, c, d, f, g, h, *midstate, bits = peer["arguments"](raw)
        assert bits == int.from_bytes(raw[72:76], "big")
        nonce = int.from_bytes(raw[76:], "big")
        w18, w19 = (w18 + small0(nonce)) & 0xFFFFFFFF, (w19 + nonce) & 0xFFFFFFFF
        words = [*(0,) * 4, 1 << 31, *(0,) * 10, 640, w16, w17, w18, w19]
        for i in range(20, 64):
            earlier = words[i - 16] + small0(words[i - 15]) + words[i - 7]
            words.append((earlier + small1(words[i - 2])) & 0xFFFFFFFF)
        t1 += nonce
        state = [(t1 + t2) & 0xFFFFFFFF, f, g, h, (midstate[0] + t1) & 0xFFFFFFFF, b, c, d]
        for i in range(4, 64):
            state = peer["_round"](state, K[i] + words[i])
        digest = b"".join(
            (x + y & 0xFFFFFFFF).to_bytes(4, "big") for x, y in zip(midstate, state, strict=True)
        )
        assert digest == hashlib.sha256(raw).digest()


# -- OpenCL -------------------------------------------------------------------------------------------


@cache
def opencl_cpus() -> list[Any]:
    """Drivers' devices of that kind: the extra `dev` brings at least one that works."""
    found = [one.driver for one in open_opencl().devices if one.driver.type & pyopencl.device_type.CPU]
    assert found
    return found


@pytest.mark.parametrize(
    "shape",
    [Shape(4, 1, 3, 4), Shape(16, 1, 2, 2), Shape(1, 64, 4, 4), Shape(8, 1, 2, 8), Shape(32, 1, 2, 4)],
    ids=str,
)
def test_opencl_shapes(shape):
    """Vectors as on CPUs, and groups with barriers as on GPUs: the same answers."""
    headers = random_headers(7, 40, bits_for_difficulty(8))
    starts = np.random.default_rng(1).integers(0, 4 * NONCES, 40, np.uint64)
    starts[:3] = 4 * NONCES - 150
    for driver in opencl_cpus():
        assert_same(Work(headers, starts, 333, 4), OpenCLDevice(driver, "a CPU", shape))


def test_opencl_says_in_one_line_what_a_compiler_does_not_like():
    device = OpenCLDevice(opencl_cpus()[0], "a CPU", Shape(5, 1, 1, 1))  # there is no uint5
    with pytest.raises(BackendError, match=r"error: .*uint5") as raised:
        device.search(Work(random_headers(1, 1, IMPOSSIBLE), np.zeros(1, np.uint64), 10))
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("version", "width", "usable"),
    [
        ("OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-generic", 8, False),
        ("OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-znver3", 8, True),
        ("OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-znver3", 16, False),
        ("OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-znver4", 16, True),
        ("OpenCL 3.0 PoCL HSTR: pthread-aarch64-unknown-linux-gnu-generic", 4, True),
        ("OpenCL 3.0 generic", 16, True),
    ],
)
def test_a_pocl_that_does_not_know_the_processor(version, width, usable):
    assert (unusable(SimpleNamespace(version=version, native_vector_width_int=width)) == "") == usable


@pytest.mark.skipif(intel_runtime() is None, reason="Intel's runtime is for Linux on x86-64")
def test_intels_package_is_found_unless_the_user_names_the_drivers(tmp_path):
    program = "import eventchain_opencl_icd as icd; print([one.name for one in icd.platforms()])"

    def said(**environment: str) -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True).stdout

    assert "Intel" in said()
    assert "Intel" not in said(OCL_ICD_VENDORS=str(tmp_path))


def test_opencl_devices_are_named():
    names = [device.name for device in open_opencl().devices]
    assert len(set(names)) == len(names)
    for number, name in enumerate(names):
        assert re.fullmatch(rf".+ \(.+\) #{number}", name)


@pytest.mark.parametrize(
    ("backend", "library", "package"),
    [("opencl", "pyopencl", "pyopencl"), ("cuda", "cupy", "cupy-cuda12x nvidia-cuda-nvrtc-cu12")],
)
def test_a_missing_library_is_a_reason(backend, library, package):
    program = (
        f"import sys; sys.modules['{library}'] = None\n"
        "from eventchain.errors import BackendError\n"
        f"try: import eventchain_{backend}\n"
        "except BackendError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "cannot be imported" in said
    assert f"pip install {package}" in said


def test_job_is_as_the_kernels_read_it():
    """The C struct Job: u32[32], u64[3]."""
    assert JOB.itemsize == 152
    names = ("header", "target", "first", "index", "roll", "rolls", "count", "begin", "end")
    assert [JOB.fields[name][1] for name in names] == [0, 80, 112, 116, 120, 124, 128, 136, 144]
