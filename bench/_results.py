"""What every benchmark writes beside its figures: when, on what machine, of which commit; and its clock."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def said_by(*command: str) -> str:
    """What a program prints, or nothing when it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def heading(bench: str) -> dict[str, Any]:
    return {
        "bench": bench,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": said_by("git", "rev-parse", "HEAD"),
        "changed_since": bool(said_by("git", "status", "--porcelain", "--untracked-files=no")),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
        },
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def clock() -> float:
    """This core's clock in Hz just now: a chain of multiply and add takes four clocks a step of CPU time."""
    from llvmlite import binding

    text = """
    define i64 @chain(i64 %n, i64 %seed) {
    entry: br label %loop
    loop:
      %i = phi i64 [0, %entry], [%j, %loop]
      %x = phi i64 [%seed, %entry], [%z, %loop]
      %y = mul i64 %x, %x
      %z = add i64 %y, %seed
      %j = add i64 %i, 1
      %more = icmp ult i64 %j, %n
      br i1 %more, label %loop, label %done
    done: ret i64 %z
    }"""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(text)
    engine = binding.create_mcjit_compiler(
        module, binding.Target.from_default_triple().create_target_machine()
    )
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(
        engine.get_function_address("chain")
    )
    best = 0.0
    for _ in range(5):
        began = time.thread_time()
        run(25_000_000, 3)
        best = max(best, 4 * 25e6 / (time.thread_time() - began))
    return best


def write(figures: dict[str, Any], label: str = "") -> Path:
    """Write the figures to bench/results/<bench>[-label]-<date>.json."""
    name = "-".join(part for part in (figures["bench"], label, figures["time"][:10]) if part)
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")
    return path
