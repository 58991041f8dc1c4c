"""What may import what: a light package, no backend in the core, and imports that only go down."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import eventchain

CORE = Path(eventchain.__path__[0])
FILES = sorted(CORE.rglob("*.py"))
HEAVY = [
    "numpy",
    "pyarrow",
    "sqlalchemy",
    "llvmlite",
    "rich",
    "click",
    "sqlite3",
    "psycopg",
    "asyncio",
    "concurrent.futures",
]
BACKENDS = {
    "eventchain_reference",
    "eventchain_cpu",
    "eventchain_opencl",
    "eventchain_cuda",
    "eventchain_fleet",
    "eventchain_stratum",
    "pyopencl",
    "cupy",
}

# floor -> the floors of the project that it may use besides itself
GROUND = {"errors", "ahead", "loop", "sqlite_readonly", "postgresql", "nats", "toml_reader", "urls"}
FORMATS = GROUND | {"formats"}
CONTRACTS = FORMATS | {"contracts"}
FLOORS = {
    "errors": set(),
    "ahead": set(),
    "loop": set(),
    "sqlite_readonly": {"errors"},
    "toml_reader": {"errors"},
    "urls": set(),
    "postgresql": {"errors", "urls"},
    "nats": {"errors"},
    "formats": GROUND,
    "contracts": FORMATS,
    "projections": FORMATS,
    "mining": CONTRACTS,
    "chain": CONTRACTS | {"mining"},
    "snapshots": CONTRACTS | {"chain", "erasure", "mining", "projections"},
    "erasure": CONTRACTS | {"chain", "mining", "projections"},
    "subjects": CONTRACTS | {"chain", "erasure", "eventstores"},
    "verify": CONTRACTS,  # nothing of the builder's logic
    "chainstores": CONTRACTS,
    "eventstores": CONTRACTS,
}


def module_of(file):
    parts = ["eventchain", *file.relative_to(CORE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file):
    """The modules that a file imports anywhere: at its top, in functions, for type checking."""
    package = module_of(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "eventchain" and len(parts) > 1 else None


def loaded_by(statement):
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


def test_importing_the_package_loads_nothing_heavy():
    before = loaded_by("pass")
    for statement in ("import eventchain", "import eventchain.errors"):
        loaded = loaded_by(statement) - before
        assert "eventchain" in loaded
        assert not loaded & set(HEAVY)
        assert not loaded & BACKENDS


COMMANDS_OF_THE_FLEET = {CORE / "cli" / "worker.py", CORE / "cli" / "fleet.py"}
"""They are the fleet's own: there is nothing to choose."""


def test_the_core_imports_no_backend():
    assert len(FILES) > 10
    for file in FILES:
        for module in imported(file):
            package = module.split(".")[0]
            allowed = package == "eventchain_fleet" and file in COMMANDS_OF_THE_FLEET
            assert allowed or package not in BACKENDS, f"{file} imports {module}"


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_only_go_down(floor):
    files = [file for file in FILES if room_of(module_of(file)) == floor]
    assert files
    for file in files:
        for module in imported(file):
            room = room_of(module)
            assert room in {None, floor} | FLOORS[floor], f"{file} imports {module}"


def test_every_imported_module_of_the_core_exists():
    known = {module_of(file) for file in FILES}
    for file in FILES:
        for module in imported(file):
            if module.startswith("eventchain."):
                assert module in known or module.rpartition(".")[0] in known, f"{file} imports {module}"


def test_the_shipped_backends_can_be_found():
    for module in ("eventchain_reference", "eventchain_kernels"):
        assert find_spec(module) is not None
