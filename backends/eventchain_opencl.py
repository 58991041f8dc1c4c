"""The ``opencl`` backend: every device of every OpenCL platform, through PyOpenCL."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from eventchain_gpu_common import SLOTS, KernelDevice, Session, ready_bytes
from eventchain_kernels import source
from numpy.typing import NDArray

from eventchain.contracts.backend import Device
from eventchain.errors import BackendError

CPU_DRIVERS = "PoCL (apt install pocl-opencl-icd) or Intel's (pip install intel-opencl-rt intel-cmplr-lib-rt)"

try:
    import pyopencl as cl
    from eventchain_opencl_icd import platforms, unusable
except ImportError as error:
    raise BackendError(
        f"PyOpenCL cannot be imported: {error}", hint=f"pip install pyopencl; for CPUs also {CPU_DRIVERS}"
    ) from None

CPU_VERSIONS, GPU_VERSIONS = 16, 4
GPU_GROUP = 128
PREPARE_GROUP = 32  # fixed: PoCL compiles a kernel anew for every group size, for a quarter of a second
GPU_ITEMS_A_UNIT = 2048  # work-items in flight on a compute unit: what today's GPUs hold at most


class OpenCLSession:
    """One in-order queue; results are read back behind each launch."""

    def __init__(self, program: Any, context: Any, shape: Shape, headers: int, versions: int) -> None:
        self._context, self._shape, self._headers, self._versions = context, shape, headers, versions
        self._queue = cl.CommandQueue(context)
        # Kernel objects hold their arguments: a set of their own makes sessions independent.
        self._prepare, self._search = cl.Kernel(program, "prepare_jobs"), cl.Kernel(program, "search")
        self._winner, self._nonce, self._counter = (self._buffer(4 * n) for n in (headers, headers, 1))
        self._slots: list[tuple[Any, ...]] = [()] * SLOTS
        for buffer in (self._winner, self._nonce):
            self._clear(buffer, headers)

    def _buffer(self, size: int) -> Any:
        return cl.Buffer(self._context, cl.mem_flags.READ_WRITE, size)

    def _clear(self, buffer: Any, words: int) -> None:
        cl.enqueue_fill_buffer(self._queue, buffer, np.uint32(0), 0, 4 * words)

    def submit(self, slot: int, jobs: NDArray[Any], chunk: int, units: int) -> None:
        queue, count = self._queue, np.uint32(len(jobs))
        sent, ready = self._buffer(jobs.nbytes), self._buffer(ready_bytes(self._versions) * len(jobs))
        winner = np.empty(self._headers, np.uint32)
        cl.enqueue_copy(queue, sent, jobs, is_blocking=False)
        self._clear(self._counter, 1)
        self._prepare.set_args(sent, ready, count)
        items = -(-len(jobs) * self._versions // PREPARE_GROUP) * PREPARE_GROUP
        cl.enqueue_nd_range_kernel(queue, self._prepare, (items,), (PREPARE_GROUP,))
        self._search.set_args(
            sent, ready, count, np.uint32(chunk), np.uint32(units),
            self._counter, self._winner, self._nonce, np.uint32(1),
        )  # fmt: skip
        groups, size = min(self._shape.groups, units), self._shape.group
        cl.enqueue_nd_range_kernel(queue, self._search, (groups * size,), (size,))
        done = cl.enqueue_copy(queue, winner, self._winner, is_blocking=False)
        queue.flush()
        self._slots[slot] = (done, winner, jobs, sent, ready)

    def wait(self, slot: int) -> NDArray[np.uint32]:
        done, winner, *_ = self._slots[slot]
        done.wait()
        self._slots[slot] = ()
        return winner  # type: ignore[no-any-return]

    def results(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        winner, nonce = np.empty(self._headers, np.uint32), np.empty(self._headers, np.uint32)
        cl.enqueue_copy(self._queue, winner, self._winner)
        cl.enqueue_copy(self._queue, nonce, self._nonce)
        return winner, nonce

    def close(self) -> None:
        self._queue.finish()  # nothing may still write into our arrays


class Shape(NamedTuple):
    """How the kernel is laid over a device: nonces a work-item, work-items a group, groups at once, and how
    many rolled versions share a message schedule."""

    vector: int
    group: int
    groups: int
    versions: int

    def lanes(self, versions: int) -> int:
        """Nonces a work-item when so many versions share. The code for a single one holds the schedule too:
        for two vectors at once it would not fit into a CPU's cache."""
        return self.vector if versions > 1 else min(self.vector, 16)


def shape_for(device: Any) -> Shape:
    if device.type & cl.device_type.CPU:
        # A core for each group, its vector unit for the lanes. Intel's driver prefers a width of 1, as it
        # makes vectors of work-items, which groups of one have not.
        width = max(device.preferred_vector_width_int, device.native_vector_width_int)
        # Where there are registers for it (AVX-512), two vectors: one waits for its results, the other works.
        return Shape(32 if width >= 16 else width, 1, device.max_compute_units, CPU_VERSIONS)
    group = min(GPU_GROUP, device.max_work_group_size)
    return Shape(1, group, device.max_compute_units * GPU_ITEMS_A_UNIT // group, GPU_VERSIONS)


class OpenCLDevice(KernelDevice):
    driver: Any
    """PyOpenCL's device."""

    def __init__(self, device: Any, name: str, shape: Shape) -> None:
        super().__init__()
        self.name, self.shape = name, shape
        self.lanes, self.versions = shape.vector * shape.group, shape.versions
        self.driver = device
        text = hashlib.sha256(source("search.cl").encode()).hexdigest()
        platform, units = device.platform, device.max_compute_units
        self.identity = (
            f"{platform.version}, {device.name}, {device.driver_version}, {units}, {shape}, {text}"
        )
        self._build_lock = threading.Lock()
        self._context: Any = None
        self._programs: dict[int, Any] = {}  # by versions

    def _program(self, versions: int) -> tuple[Any, Any]:
        with self._build_lock:
            self._context = self._context or cl.Context([self.driver])
            if versions not in self._programs:
                with warnings.catch_warnings():
                    # Compilers talk even when all is well, and PyOpenCL makes a warning of it.
                    warnings.simplefilter("ignore", cl.CompilerWarning)
                    self._programs[versions] = cl.Program(self._context, source("search.cl")).build(
                        [
                            f"-DLANES={self.shape.lanes(versions)}",
                            f"-DGROUP={self.shape.group}",
                            f"-DVERSIONS={versions}",
                        ]
                    )
            return self._programs[versions], self._context

    @contextmanager
    def session(self, headers: int, versions: int) -> Iterator[Session]:
        try:
            session = OpenCLSession(*self._program(versions), self.shape, headers, versions)
            try:
                yield session
            finally:
                session.close()
        except cl.Error as error:
            raise BackendError(_said(error), hint="choose another with --device or --backend") from error


def _said(error: cl.Error) -> str:
    """In one line: a compiler's first error, or what else it says first."""
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line.strip() for line in lines if "error:" in line), lines[0])


class OpenCLBackend:
    name = "opencl"

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = devices


def open_backend() -> OpenCLBackend:
    hint = f"install the device's OpenCL driver, for CPUs {CPU_DRIVERS}"
    try:
        found = platforms()
    except cl.Error as error:  # the loader raises when it knows no platform
        raise BackendError(f"no OpenCL platform: {error}", hint=hint) from error
    devices: list[Device] = []
    reasons: list[str] = []
    for platform in found:
        try:
            of_platform = platform.get_devices()
        except cl.Error as error:
            reasons.append(f"{platform.name.strip()}: {error}")
            continue
        for device in of_platform:
            if reason := unusable(device):
                reasons.append(reason)
                continue
            name = f"{device.name.strip()} ({platform.name.strip()}) #{len(devices)}"
            devices.append(OpenCLDevice(device, name, shape_for(device)))
    if not devices:
        raise BackendError("; ".join(["no OpenCL device", *reasons]), hint=hint)
    return OpenCLBackend(devices)
