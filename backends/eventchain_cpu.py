"""The ``cpu`` backend: vector code generated through LLVM, on all cores. Needs no compiler and no driver."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from eventchain_kernels import native

from eventchain.contracts.backend import Device, Solutions, Work
from eventchain.errors import BackendError, ConfigError
from eventchain.mining.jobs import expand, versions_a_job

CHUNK = 2**26
"""Hashes between two looks at which headers are still open: seconds."""
VARIANTS = {"sha": "SHA-NI", "avx512": "AVX-512", "avx2": "AVX2", "generic": "plain vectors"}


class CpuDevice:
    """All cores of the host, with one variant of the code (the fastest by default)."""

    def __init__(self, variant: str) -> None:
        self.variant = variant

    @cached_property
    def name(self) -> str:
        """As in ``AMD EPYC 7763, 16 cores, SHA-NI``."""
        cores = native.cores()
        return f"{_brand()}, {cores} core{'s' if cores > 1 else ''}, {VARIANTS[self.variant]}"

    def search(self, work: Work) -> Solutions:
        versions = versions_a_job(work.rolls, native.versions_at_a_time())
        wanted = np.ones(len(work.headers), np.bool_)
        found = np.full(len(work.headers), -1, np.int64)
        for jobs in expand(work, wanted, hashes=CHUNK, versions=versions):
            native.search_jobs(jobs, found, rolled=versions > 1, variant=self.variant)
            np.less(found, 0, out=wanted)
        index = np.flatnonzero(found >= 0)
        return Solutions(index.astype(np.uint32), found[index].astype(np.uint64))


class CpuBackend:
    name = "cpu"

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = devices


def open_backend() -> CpuBackend:
    """Raises BackendError when no code can be generated here."""
    try:
        variants = native.search_variants()
    except ConfigError as error:  # EVENTCHAIN_CPU_FEATURES names what this CPU has not
        raise BackendError(error.message, hint=error.hint) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"LLVM cannot be used: {error}", hint="reinstall llvmlite") from error
    return CpuBackend([CpuDevice(variants[0])])


def _brand() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"
