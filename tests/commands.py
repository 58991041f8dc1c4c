"""The command line, called in the tests' own process."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from eventchain.cli import cli


def run(*args: Any, code: int = 0, **more: Any) -> Result:
    """``eventchain ARGS``, which ends with this code and no traceback; ``more`` goes to click's runner."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args], **more)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result
