"""The ``cuda`` backend: every CUDA device of this host, through CuPy and NVRTC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from eventchain_gpu_common import SLOTS, KernelDevice, Session, ready_bytes
from eventchain_kernels import CUDA_GROUP, CUDA_VARIANTS, CUDA_VERSIONS, Variant, cuda_options, source
from numpy.typing import NDArray

from eventchain.contracts.backend import Device
from eventchain.errors import BackendError

try:
    import cupy
except ImportError as error:
    raise BackendError(
        f"CuPy cannot be imported: {error}", hint="pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12"
    ) from None

CUDA_ERRORS = (
    cupy.cuda.runtime.CUDARuntimeError,
    cupy.cuda.driver.CUDADriverError,
    cupy.cuda.compiler.CompileException,
    cupy.cuda.memory.OutOfMemoryError,
)


def _pinned(size: int) -> NDArray[np.uint8]:
    """Host memory that the device reads and writes by itself, so that copies do not wait."""
    return np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)


class _Slot:
    """A stream of its own, so that a launch fills the device while the one before it drains."""

    def __init__(self) -> None:
        self.stream = cupy.cuda.Stream(non_blocking=True)
        # A blocking event puts the waiting thread to sleep; the default would spin on a core.
        self.done = cupy.cuda.Event(block=True, disable_timing=True)
        self.in_use: tuple[Any, ...] = ()
        self.winner = np.zeros(0, np.uint8)

    def sleep(self) -> None:
        self.done.record(self.stream)
        self.done.synchronize()


class CudaSession:
    """One search on the current device; only this thread uses it."""

    def __init__(self, module: Any, blocks: int, headers: int, versions: int) -> None:
        self._blocks, self._versions = blocks, versions
        self._prepare, self._search = module.get_function("prepare_jobs"), module.get_function("search")
        # All of an SM's memory as shared memory: so many blocks need most of it, and the cache nothing.
        self._search.preferred_shared_memory_carveout = 100
        self._slots = [_Slot() for _ in range(SLOTS)]
        with self._slots[0].stream:
            self._winner, self._nonce = cupy.zeros(headers, np.uint32), cupy.zeros(headers, np.uint32)
        self._slots[0].sleep()

    def submit(self, slot: int, jobs: NDArray[Any], chunk: int, units: int) -> None:
        use, count = self._slots[slot], np.uint32(len(jobs))
        staged = _pinned(jobs.nbytes)
        staged[:] = jobs.view(np.uint8)
        use.winner = _pinned(self._winner.nbytes)
        with use.stream as stream:
            sent = cupy.empty(jobs.nbytes, np.uint8)
            ready = cupy.empty(ready_bytes(self._versions) * len(jobs), np.uint8)
            counter = cupy.zeros(1, np.uint32)
            sent.set(staged, stream=stream)
            items = len(jobs) * self._versions
            self._prepare((-(-items // CUDA_GROUP),), (CUDA_GROUP,), (sent, ready, count))
            self._search(
                (min(self._blocks, units),),
                (CUDA_GROUP,),
                (
                    sent, ready, count, np.uint32(chunk), np.uint32(units),
                    counter, self._winner, self._nonce, np.uint32(1),
                ),
            )  # fmt: skip
            self._winner.get(stream=stream, out=use.winner.view(np.uint32), blocking=False)
            use.done.record(stream)
        use.in_use = (staged, sent, ready, counter)

    def wait(self, slot: int) -> NDArray[np.uint32]:
        use = self._slots[slot]
        use.done.synchronize()
        use.in_use = ()
        return use.winner.view(np.uint32)

    def results(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        slot, size = self._slots[0], self._winner.nbytes
        winner, nonce = (_pinned(size).view(np.uint32) for _ in range(2))
        self._winner.get(stream=slot.stream, out=winner, blocking=False)
        self._nonce.get(stream=slot.stream, out=nonce, blocking=False)
        slot.sleep()
        return winner.copy(), nonce.copy()

    def close(self) -> None:
        for slot in self._slots:  # nothing may still write into our memory
            slot.sleep()


@cache
def _module(versions: int, variant: Variant) -> Any:
    """CuPy compiles it when a session asks for its kernels, once for each device, and keeps it on disk."""
    return cupy.RawModule(code=source("search.cu"), options=cuda_options(versions, variant), backend="nvrtc")


def _promising(capability: tuple[int, int]) -> list[str]:
    """The variants that may be the fastest on GPUs of a compute capability, by the throughputs that the CUDA
    C++ Programming Guide gives. Before 7.0 a multiplication took several instructions."""
    if capability < (7, 0):
        return ["alu"]
    many_doubles = capability in {(7, 0), (8, 0), (9, 0), (10, 0)}
    return ["imad.hi", "fp64"] if many_doubles else ["imad.hi"]


class CudaDevice(KernelDevice):
    """One GPU. At first use it keeps the fastest of ``variants``, names in ``CUDA_VARIANTS``; none: of those
    that are promising for it."""

    lanes = CUDA_GROUP

    def __init__(
        self, number: int, versions: int = CUDA_VERSIONS, variants: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        self.name = f"{properties['name'].decode()} #{number}"
        self.versions = versions
        self.capability = properties["major"], properties["minor"]
        self.variants = variants or _promising(self.capability)
        self._number, self.multiprocessors = number, properties["multiProcessorCount"]
        self.variant = self.variants[0]

    def _measure(self) -> float:
        rates = {}
        for name in self.variants:
            self.variant = name
            rates[name] = super()._measure()
        self.variant = max(rates, key=rates.__getitem__)
        return rates[self.variant]

    @contextmanager
    def session(self, headers: int, versions: int) -> Iterator[Session]:
        variant = CUDA_VARIANTS[self.variant]
        module = _module(versions, variant)
        blocks = self.multiprocessors * variant.groups_an_sm
        try:
            with cupy.cuda.Device(self._number):
                session = CudaSession(module, blocks, headers, versions)
                try:
                    yield session
                finally:
                    session.close()
        except CUDA_ERRORS as error:
            raise BackendError(
                f"{self.name} failed: {error}", hint="choose another with --device or --backend"
            ) from error


class CudaBackend:
    name = "cuda"

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = devices


def open_backend() -> CudaBackend:
    hint = "it needs an NVIDIA GPU and its driver; nvidia-smi must list it"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        if not count:
            raise BackendError("no CUDA device", hint=hint)
        return CudaBackend([CudaDevice(number) for number in range(count)])
    except CUDA_ERRORS as error:
        raise BackendError(f"no usable CUDA driver or device: {error}", hint=hint) from error
