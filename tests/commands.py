"""The command line, called in the tests' own process or in one of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from killing import command_line

from eventchain.cli import cli


def run(*args: Any, code: int = 0, **more: Any) -> Result:
    """``eventchain ARGS``, which ends with this code and no traceback; ``more`` goes to click's runner."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args], **more)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def eventchain(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``eventchain ARGUMENTS`` in this folder, in a process of its own."""
    return subprocess.run(
        command_line(*arguments), cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
