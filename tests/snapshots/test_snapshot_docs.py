"""What docs/snapshots.md shows does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from eventchain.config import Config

PAGE = (Path(__file__).parents[2] / "docs" / "snapshots.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "EVENTCHAIN_BACKEND": "cpu"}
    environment.pop("EVENTCHAIN_CONFIG", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    first, restoring, checking = blocks("sh")
    (state,) = blocks("json")
    done = run(tmp_path, "bash", "-euc", first)
    assert done.stdout.endswith(state.strip())
    assert "took 1 snapshot" in done.stdout
    assert "the snapshot of block 1 and 0 events" in done.stderr

    done = run(tmp_path, "bash", "-euc", restoring)
    assert done.stdout.startswith(state.strip())
    assert (tmp_path / "placed.json").read_text() == state.strip()
    assert '/order-8: added "20.5"' in done.stdout

    (script,) = blocks("python")
    assert run(tmp_path, sys.executable, "-c", script).stdout == f"20.5\n1 3 0 {state.strip()}\n1 2\n"

    assert run(tmp_path, "bash", "-euc", checking).stdout == "1 snapshot right, 0 wrong\n"

    config = tmp_path / "eventchain.toml"
    config.write_text("\n".join([config.read_text(), *blocks("toml")]))
    assert Config.load(config).projections["history"].of == "placed"
    run(tmp_path, "eventchain", "snapshot", "take", "history")
    listed = run(tmp_path, "eventchain", "snapshot", "restore", "history").stdout
    assert listed == f'{{"example.com/orders/placed":{state.strip()}}}'
    (origin,) = re.findall(r"own origin is\n`([^`]+)`", PAGE)
    assert origin in run(tmp_path, "eventchain", "verify").stdout
