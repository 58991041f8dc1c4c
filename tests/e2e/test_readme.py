"""README and docs cannot drift: their commands parse, scripts run, lists and figures are the real ones."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from eventchain.cli import cli
from eventchain.cli.common import duration, quantity
from eventchain.mining.backends import available
from eventchain.verify.findings import KINDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
GUARANTEES = DOCS["guarantees"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    """Every ``eventchain …`` in a shell block, here-documents left out, and in code spans."""
    text = "\n".join([README, *DOCS.values()])
    shell = re.sub(r"<<'END'\n.*?\nEND\n", "\n", "\n".join(_blocks("(?:sh|crontab)", text)), flags=re.DOTALL)
    lines = re.findall(r"\beventchain [^|&;>\n]*", shell)
    return sorted({line.strip() for line in lines + re.findall(r"`(eventchain [^`\n]+)`", text)})


def _script(language: str, containing: str, text: str = README) -> str:
    (block,) = (block for block in _blocks(language, text) if containing in block)
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

    snippet = _script("python", "chain.sealing()")
    done = _run([sys.executable, "-c", snippet], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "clean\n"

    done = _run(["bash", "-euxc", _script("sh", "eventchain wait")], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("sealed in block 1") == 2
    done = _run([sys.executable, "-c", _script("python", "wait_sealed")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 0\n2\n"


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
        name for name in available() if name in ("cpu", "opencl", "cuda", "fleet", "stratum", "reference")
    }


def test_the_guarantees_name_findings_that_exist() -> None:
    tables = GUARANTEES.partition("## Found only")[0]
    findings = "\n".join(re.findall(r"^\|[^|]*\|([^|]*)\|$", tables, re.MULTILINE))
    named = set(re.findall(r"`([a-z-]+)`", findings))
    assert named <= KINDS.keys()
    assert named >= {"altered", "missing", "inserted", "reordered", "shifted", "salt-replaced", "policy"}


def test_links_lead_somewhere() -> None:
    for folder, text in [(ROOT, README), *((ROOT / "docs", text) for text in DOCS.values())]:
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("https://"):
                assert (folder / target).exists(), target


def test_every_page_is_linked_from_the_readme() -> None:
    assert {name for name in DOCS if f"(docs/{name}.md)" in README} == DOCS.keys()


def test_the_table_of_difficulties_is_computed() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \| (.+) \|$", DOCS["policy"], re.MULTILINE)
    assert len(rows) == 7
    for bits, *cells in rows:
        hashes = 2 ** int(bits)
        assert cells == [quantity(hashes), *(duration(hashes / rate) for rate in (40e6, 10e9, 100e12))]


def test_the_table_of_the_event_stores_is_sealed_as_it_stands(tmp_path: Path) -> None:
    script = _script("sh", "order_log", DOCS["event-stores"]).replace("python3", f"'{sys.executable}'")
    done = _run(["bash", "-euxc", script], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verdict: clean" in done.stdout
    assert "3 events" in done.stdout
    done = _run([sys.executable, "-m", "eventchain", "receipt", "north/7/2"], tmp_path)
    assert (done.returncode, "sealed in block 1" in done.stdout) == (0, True), done.stderr


def test_the_mappings_of_the_event_stores_are_the_real_ones() -> None:
    shown = _blocks("toml", DOCS["event-stores"])
    folder = ROOT / "eventchain" / "eventstores" / "mappings"
    assert sorted(shown) == sorted(file.read_text(encoding="utf-8") for file in folder.glob("*.toml"))


def test_the_table_of_event_stores_is_complete() -> None:
    installed = {entry.name for entry in entry_points(group="eventchain.eventstores")}
    for text in (README, DOCS["event-stores"]):
        assert set(re.findall(r"^\| `([\w+-]+)://", text, re.MULTILINE)) == installed - {"kurrentdb+discover"}


def test_the_copies_of_the_operations_are_whole(tmp_path: Path) -> None:
    """Made while a connection holds commits in the write-ahead log, where ``cp`` would miss them."""
    commands = "".join(_blocks("sh", DOCS["operations"])).splitlines()
    if shutil.which("sqlite3") is None:  # the command line program is not everywhere; Python's module is
        commands = [command for command in commands if command.startswith("python3")]
    assert commands
    open_files = {name: sqlite3.connect(tmp_path / f"{name}.db") for name in ("chain", "events")}
    try:
        for connection in open_files.values():
            connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                connection.execute("CREATE TABLE t (x)")
                connection.execute("INSERT INTO t VALUES (1)")
        assert (tmp_path / "chain.db-wal").stat().st_size
        for command in commands:
            done = _run(["bash", "-euc", command.replace("python3", f"'{sys.executable}'")], tmp_path)
            assert done.returncode == 0, done.stderr
    finally:
        for connection in open_files.values():
            connection.close()
    copies = sorted(tmp_path.glob("*-copy*.db"))
    assert len(copies) == len(commands)
    for copy in copies:
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]


# -- proofs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with the script of docs/proofs.md and an anchor, and a proof for that anchor's block."""
    folder = tmp_path_factory.mktemp("proven")
    lines = (
        f'{{"specversion":"1.0","source":"/é","id":"e{n}","type":"T","subject":"s","data":{n}}}\n'
        for n in range(7)
    )
    (folder / "events.jsonl").write_text("".join(lines), encoding="utf-8")
    for command in (
        "init --origin example.com/orders --difficulty 10 --block-events 2",
        "import events.jsonl",
        "mine",
        "verify --anchor anchor.txt",
    ):
        done = _run([sys.executable, "-m", "eventchain", *command.split()], folder)
        assert done.returncode == 0, done.stderr
    (folder / "check_proof.py").write_text(_script("python", "def wrong", DOCS["proofs"]), encoding="utf-8")
    done = _run([sys.executable, "-m", "eventchain", "show", "--proof", "e4"], folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def _checked(folder: Path, proof: dict[str, Any], *anchor: str) -> subprocess.CompletedProcess[str]:
    """The script's verdict, with no package but the standard library in reach."""
    (folder / "proof.json").write_text(json.dumps(proof), encoding="utf-8")
    return _run([sys.executable, "-I", "-S", "check_proof.py", "proof.json", *anchor], folder)


def test_the_documented_script_accepts_a_proof(proven: tuple[Path, dict[str, Any]]) -> None:
    folder, proof = proven
    anchor = (folder / "anchor.txt").read_text().split()
    assert _checked(folder, proof).stdout.startswith("the proof is coherent")
    assert _checked(folder, proof, *anchor).stdout == "the proof holds\n"

    (line,) = (line for line in "".join(_blocks("sh", DOCS["proofs"])).splitlines() if "check_proof" in line)
    done = _run(["bash", "-euc", line.replace("python3", f"'{sys.executable}'")], folder)
    assert (done.returncode, done.stdout) == (0, "the proof holds\n"), done.stderr

    anchor[1] = "3"
    assert _checked(folder, proof, *anchor).stderr == "the proof does not hold: anchor\n"


def test_the_documented_script_knows_erased_events(proven: tuple[Path, dict[str, Any]]) -> None:
    folder, good = proven
    proof = json.loads(json.dumps(good))
    proof["salt"] = proof["event"]["data_base64"] = proof["event"]["metadata_base64"] = None
    assert _checked(folder, proof).returncode == 0
    for name in ("data_base64", "metadata_base64"):  # of which nothing is proven
        lie = json.loads(json.dumps(proof))
        lie["event"][name] = good["event"][name]
        assert _checked(folder, lie).stderr == "the proof does not hold: format\n"
    proof["event"]["type"] = "U"
    assert _checked(folder, proof).stderr == "the proof does not hold: entry, leaf, root, manifest\n"


def _flip(text: str) -> str:
    """Base64 or hex of other bytes: the first digit changed."""
    return ("1" if text[0] == "0" else "0") + text[1:]


DAMAGE: dict[str, Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]] = {
    "position": lambda proof, event, block: event.update(position=event["position"] + 1),
    "version": lambda proof, event, block: event.update(version=9),
    "time": lambda proof, event, block: event.update(time=0),
    "stream": lambda proof, event, block: event.update(stream="t"),
    "id": lambda proof, event, block: event.update(id="e5"),
    "type": lambda proof, event, block: event.update(type="U"),
    "data": lambda proof, event, block: event.update(data_base64="NQ=="),
    "no data": lambda proof, event, block: event.update(data_base64=None),
    "metadata": lambda proof, event, block: event.update(metadata_base64=_flip(event["metadata_base64"])),
    "salt": lambda proof, event, block: proof.update(salt=_flip(proof["salt"])),
    "commitment": lambda proof, event, block: proof.update(commitment=_flip(proof["commitment"])),
    "entry": lambda proof, event, block: proof.update(entry_base64=_flip(proof["entry_base64"])),
    "leaf": lambda proof, event, block: proof.update(leaf=_flip(proof["leaf"])),
    "index": lambda proof, event, block: proof.update(index=5),
    "size": lambda proof, event, block: proof.update(size=8),
    "a step of the path": lambda proof, event, block: proof["path"].reverse(),
    "a step too few": lambda proof, event, block: proof["path"].pop(),
    "a step too many": lambda proof, event, block: proof["path"].append(proof["leaf"]),
    "root": lambda proof, event, block: proof.update(root=_flip(proof["root"])),
    "origin": lambda proof, event, block: block.update(origin="example.com/other"),
    "height": lambda proof, event, block: block.update(height=3),
    "manifest": lambda proof, event, block: block.update(manifest=block["manifest"] + "late 1\n"),
    "header": lambda proof, event, block: block.update(header=block["header"][:-1] + "x"),
    "prev": lambda proof, event, block: block.update(header=block["header"][:8] + _flip(block["header"][8:])),
    "time of the header": lambda proof, event, block: block.update(
        header=block["header"][:136] + "00000000" + block["header"][144:]
    ),
    "extranonce": lambda proof, event, block: block.update(extranonce=block["extranonce"] + 1),
    "link": lambda proof, event, block: block.update(link=_flip(block["link"])),
    "previous seal": lambda proof, event, block: block.update(previous_seal=_flip(block["previous_seal"])),
    "seal": lambda proof, event, block: block.update(seal=_flip(block["seal"])),
    "a field gone": lambda proof, event, block: block.pop("seal"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_documented_script_rejects_damage(what: str, proven: tuple[Path, dict[str, Any]]) -> None:
    folder, good = proven
    proof = json.loads(json.dumps(good))
    DAMAGE[what](proof, proof["event"], proof["block"])
    assert proof != good
    done = _checked(folder, proof)
    assert done.returncode == 1
    assert done.stderr.startswith("the proof "), done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_on_proofs_names_every_field(proven: tuple[Path, dict[str, Any]]) -> None:
    _, proof = proven
    table = DOCS["proofs"].partition("\n## The fields\n")[2].partition("\n## ")[0]
    named = "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))
    for name in [*proof, *proof["event"], *proof["block"]]:
        if name not in ("event", "block"):
            assert re.search(rf"[`.]{name}`", named), name
