"""Compiles the generated functions for this CPU and keeps the machine code in a cache directory.

A *variant* is a way to use a CPU: ``sha`` (x86's SHA instructions), ``avx512`` (32 lanes, in two vectors),
``avx2`` (8), ``generic`` (4 of whatever vectors there are: SSE2, NEON). ``EVENTCHAIN_CPU_FEATURES`` forces
one. Functions are compiled one by one, when first asked for.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from eventchain.errors import ConfigError
from eventchain_kernels.kept import keep, kept

FUNCTIONS = {
    "hash_joined": "hash_batch",
    "hash_levels": "merkle",
    "search_jobs": "nonce_search",
    "search_rolled": "nonce_search",
    "fetch_rows": "fetch_rows",
    "chain_seals": "seal_chain",
}
"""Function to the module that builds it."""
VERSIONS = {"search_jobs": 1, "search_rolled": 16}
"""Versions of a header that each search takes at a time."""


class Variant(NamedTuple):
    needs: tuple[str, ...]  # CPU features, as LLVM calls them
    cpu: str  # LLVM's name of the level to compile for; "": the host itself
    features: str
    lanes: int  # messages side by side, where a function has lanes
    ternary: bool = False  # AVX-512's logic of three operands is there


VARIANTS = {
    "avx512": Variant(
        ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx2", "bmi2"),
        "x86-64-v4",
        "-prefer-256-bit",  # else LLVM splits the vectors of 512 bits in two
        32,
        ternary=True,
    ),
    "sha": Variant(("sha", "avx2", "bmi2"), "x86-64-v3", "+sha", 4),
    "avx2": Variant(("avx2", "bmi2"), "x86-64-v3", "", 8),
    "generic": Variant((), "", "", 4),
}

_lock = threading.Lock()
_engines: list[Any] = []  # the machine code lives as long as its engine


@cache
def variants() -> tuple[str, ...]:
    """Those that this CPU and its operating system can run, or the one that is forced."""
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    able = tuple(name for name, it in VARIANTS.items() if all(has.get(feature) for feature in it.needs))
    forced = os.environ.get("EVENTCHAIN_CPU_FEATURES")
    if not forced:
        return able
    if forced not in able:
        raise ConfigError(
            f"EVENTCHAIN_CPU_FEATURES={forced} is nothing that this CPU has",
            hint=f"it has {', '.join(able)}",
        )
    return (forced,)


@cache
def function(name: str, variant: str) -> Callable[..., None]:
    """The compiled function. All its arguments are integers or addresses of 64 bits; a call lets other
    Python threads run."""
    with _lock:
        address = _load(_object_code(name, variant), name)
    arguments = len(_builder(name).ARGUMENTS)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(address)


def _builder(name: str) -> Any:
    from importlib import import_module

    return import_module(f"eventchain_kernels.native.{FUNCTIONS[name]}")


def machine(variant: str) -> Any:
    """LLVM's target machine of a variant; also of one that this CPU lacks, to look at its code."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    it = VARIANTS[variant]
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if it.cpu or x86:
        cpu, features = it.cpu or "x86-64", it.features
    else:
        cpu, features = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    target = binding.Target.from_triple(binding.get_process_triple())
    return target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", jit=True)


def optimised(name: str, variant: str, target: Any) -> Any:
    """The function's module after LLVM's optimiser."""
    from llvmlite import binding, ir

    module = ir.Module(name)
    it = VARIANTS[variant]
    options = {"versions": VERSIONS[name], "ternary": it.ternary} if name in VERSIONS else {}
    _builder(name).build(module, it.lanes, variant == "sha", **options)
    parsed = binding.parse_assembly(str(module))
    parsed.triple, parsed.data_layout = target.triple, str(target.target_data)
    tuning = binding.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_unrolling = False
    builder = binding.create_pass_builder(target, tuning)
    builder.getModulePassManager().run(parsed, builder)
    return parsed


def _load(code: bytes, name: str) -> int:
    from llvmlite import binding

    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine("generic"))
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(name))


# -- the cache ----------------------------------------------------------------------------------------


def _object_code(name: str, variant: str) -> bytes:
    """From the cache, or compiled and put there."""
    file = f"{name}-{_key(variant)}.o"
    if code := kept(file):
        return code
    target = machine(variant)
    code = bytes(target.emit_object(optimised(name, variant, target)))
    keep(file, code)
    return code


@cache
def _key(variant: str) -> str:
    """Changes with the generator, LLVM, the CPU and the variant."""
    import llvmlite
    from llvmlite import binding

    parts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    host = binding.get_host_cpu_features().flatten()
    versions = (llvmlite.__version__, binding.llvm_version_info, binding.get_process_triple())
    parts.append(repr((versions, binding.get_host_cpu_name(), host, VARIANTS[variant])).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]
