"""The README cannot drift: its commands parse, its quickstart runs, its lists are the real ones."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from eventchain.cli import cli
from eventchain.mining.backends import available
from eventchain.verify.findings import KINDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    """Every ``eventchain …`` in a shell block, here-documents left out, and in code spans."""
    shell = re.sub(r"<<'END'\n.*?\nEND\n", "\n", "\n".join(_blocks("sh")), flags=re.DOTALL)
    lines = re.findall(r"^eventchain .*$", shell, re.MULTILINE)
    return lines + re.findall(r"`(eventchain [^`\n]+)`", README + GUARANTEES)


def _script(language: str, containing: str) -> str:
    (block,) = (block for block in _blocks(language) if containing in block)
    return block


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "EVENTCHAIN_BACKEND": "cpu"}
    environment.pop("EVENTCHAIN_CONFIG", None)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("line", _commands())
def test_commands_parse(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, name, *arguments = shlex.split(line)
    for argument in arguments:  # files that click itself wants to exist
        if re.fullmatch(r"[\w.-]+\.\w+", argument):
            (tmp_path / argument).touch()
    with click.Context(cli) as context:
        command = cli.get_command(context, name)
        assert command is not None, f"there is no command {name}"
        command.make_context(name, arguments, parent=context)


def test_there_are_commands_to_check() -> None:
    assert {line.split()[1] for line in _commands()} >= {"init", "import", "mine", "verify", "status", "show"}


def test_the_list_of_commands_is_the_help() -> None:
    done = CliRunner().invoke(cli, ["--help"], prog_name="eventchain", terminal_width=110)
    assert done.exit_code == 0
    listed = done.stdout.partition("Commands:\n")[2].rstrip()
    assert listed
    assert listed in README


def test_the_quickstart_runs_as_it_stands(tmp_path: Path) -> None:
    script = _script("sh", "orders.jsonl")
    done = _run(["bash", "-euxc", script], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: clean" in done.stdout
    assert "OrderPaid" in done.stdout
    assert (tmp_path / "anchor.txt").read_text().startswith("example.com/orders 1 ")

    snippet = _script("python", "open_chain")
    done = _run([sys.executable, "-c", snippet], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "clean\n"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (tests,) = (block for block in _blocks("sh") if "make test" in block)
    told = [line for line in tests.splitlines() if line]
    runs = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert told[-1] == "make test"
    assert told[-1] in runs
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_make_targets_exist_and_are_explained() -> None:
    named = set(re.findall(r"^make (\w+)$", "\n".join(_blocks("sh")), re.MULTILINE))
    named |= set(re.findall(r"`make (\w+)`", README))
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert named >= {"demo", "test", "lint", "bench", "gpu"}
    assert named <= targets
    assert set(re.findall(r'echo "make (\w+) ', MAKEFILE)) == targets - {"help"}


def test_the_table_of_backends_is_complete() -> None:
    table = README.partition("\n## Backends\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {
        name for name in available() if name in ("cpu", "opencl", "cuda", "reference")
    }


def test_the_guarantees_name_findings_that_exist() -> None:
    tables = GUARANTEES.partition("## Found only")[0]
    findings = "\n".join(re.findall(r"^\|[^|]*\|([^|]*)\|$", tables, re.MULTILINE))
    named = set(re.findall(r"`([a-z-]+)`", findings))
    assert named <= KINDS.keys()
    assert named >= {"altered", "missing", "inserted", "reordered", "shifted", "salt-replaced", "policy"}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README + GUARANTEES):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target
