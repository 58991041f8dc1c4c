"""What every benchmark writes beside its figures: when, on what machine, of which commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
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


def write(figures: dict[str, Any], label: str = "") -> Path:
    """Write the figures to bench/results/<bench>[-label]-<date>.json."""
    name = "-".join(part for part in (figures["bench"], label, figures["time"][:10]) if part)
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")
    return path
