"""Finding projections by import string, and their fingerprints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventchain.errors import ProjectionError
from eventchain.projections.projection import Projection, imported

CODE = '''\
"""Orders."""
import math
from eventchain.projections import Projection

RATE = 3
UNUSED = 4


def scaled(amount):
    return amount * RATE


class Base(Projection):
    def initial(self):
        return 0


class Totals(Base):
    """Of orders."""

    def __init__(self, step=1):
        self.step = step

    @property
    def options(self):
        return {"step": self.step}

    def apply(self, state, event):
        # a comment
        return state + scaled(self.step)


def made(step=1):
    return Totals(step)


class Outer:
    class Inner(Totals):
        pass


totals = Totals(5)
number = 5


def broken():
    raise RuntimeError("not today")
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module ``orders``, which is the current one."""
    (tmp_path / "orders.py").write_text(CODE)
    (tmp_path / "faulty.py").write_text("import no_such_module\n")
    (tmp_path / "failing.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("orders", "faulty", "failing", "leaving"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_import_strings(here: Path) -> None:
    for use in ("orders:Totals", "orders:made", "orders:totals", "orders:Outer.Inner"):
        assert isinstance(imported(use), Projection)
    assert imported("orders:Totals", {"step": 2}).options == {"step": 2}
    assert imported("orders:made", {"step": 2}).options == {"step": 2}
    assert imported("orders:totals").options == {"step": 5}


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("orders", "'orders' is not an import string"),
        (":Totals", "is not an import string"),
        ("order:Totals", "there is no module 'order' for 'order:Totals'"),
        ("nowhere.orders:Totals", "there is no module 'nowhere'"),
        ("orders:Total", "the module 'orders' has no 'Total'"),
        ("orders:Totals.x.y", "the module 'orders' has no 'Totals.x.y'"),
        ("orders:number", "'orders:number' is not a projection but a int"),
        ("orders:scaled", "'orders:scaled' cannot be made: TypeError"),
        ("orders:Outer", "'orders:Outer' is not a projection but a Outer"),
        ("orders:broken", "'orders:broken' cannot be made: RuntimeError: not today"),
        ("faulty:x", "importing 'faulty' failed: No module named 'no_such_module'"),
        ("failing:x", "importing 'failing' failed: ZeroDivisionError"),
        ("leaving:x", "importing 'leaving' failed: SystemExit: 3"),
    ],
)
def test_what_cannot_be_used_says_why(here: Path, use: str, said: str) -> None:
    with pytest.raises(ProjectionError) as caught:
        imported(use)
    assert said in caught.value.message


def test_options_that_do_not_fit(here: Path) -> None:
    with pytest.raises(ProjectionError, match="unexpected keyword argument 'stride'"):
        imported("orders:Totals", {"stride": 2})
    with pytest.raises(ProjectionError, match="is an instance and takes no options"):
        imported("orders:totals", {"step": 2})


def fingerprint(folder: Path, code: str, use: str = "orders:Totals") -> str:
    """In a process of its own."""
    (folder / "orders.py").write_text(code)
    script = f"from eventchain.projections.projection import imported; print(imported({use!r}).fingerprint())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "random", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_a_fingerprint_changes_with_the_code_and_options_and_with_nothing_else(tmp_path: Path) -> None:
    plain = fingerprint(tmp_path, CODE)
    assert len(plain) == 16
    same = CODE.replace("# a comment", "# another one").replace('"""Of orders."""', '"""Other words."""')
    same = same.replace("UNUSED = 4", "UNUSED = 5").replace("amount * RATE", "(amount  *  RATE)")
    assert fingerprint(tmp_path, same) == plain
    for old, new in [
        ("RATE = 3", "RATE = 4"),  # a constant used by a function that is used
        ("amount * RATE", "amount + RATE"),
        ("return 0", "return 1"),  # a base class
        ("import math", "from math import floor as scaled"),  # another meaning of a name
        ("scaled(self.step)", "scaled(1)"),
    ]:
        assert fingerprint(tmp_path, CODE.replace(old, new)) != plain
    assert fingerprint(tmp_path, CODE, "orders:totals") != plain  # other options
    assert fingerprint(tmp_path, CODE, "orders:made") == plain


def test_code_that_cannot_be_read_has_no_fingerprint() -> None:
    space: dict[str, object] = {"__name__": "nowhere"}
    exec("from eventchain.projections import Projection\nclass Made(Projection): pass", space)
    with pytest.raises(ProjectionError, match="the source of Made cannot be read"):
        space["Made"]().fingerprint()
