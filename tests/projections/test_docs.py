"""What docs/projections.md shows does what it says."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from folds import batch_of, folded, simple

from eventchain.config import Config
from eventchain.eventstores import open_event_store
from eventchain.projections.filter import Filter
from eventchain.projections.projection import imported
from eventchain.projections.spec import READY

PAGE = (Path(__file__).parents[2] / "docs" / "projections.md").read_text("utf-8")
ORDERS = [
    simple("order-1", {"total": 1999, "customer": "Ada", "channel": "web"}, "OrderPlaced", id="1"),
    simple("order-2", {"total": 20, "customer": "Ada", "channel": "web"}, "OrderPlaced", id="2"),
    simple("order-3", {"total": 1500.5, "customer": "Bo", "channel": "shop"}, "OrderPlaced", id="3"),
    simple("order-3", {}, "OrderPaid", id="4"),
]


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The modules of the page, in the current folder, forgotten afterwards."""
    for block in blocks("python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("shop", "sizes"):
        sys.modules.pop(name, None)
    yield tmp_path
    for name in ("shop", "sizes"):
        sys.modules.pop(name, None)


def test_the_tables_are_a_configuration(shop: Path) -> None:
    text = 'store = "sqlite:///e.db"\nchain = "sqlite:///c.db"\n' + "\n".join(blocks("toml"))
    specs = Config.parse(text, Path("eventchain.toml")).projections
    assert list(specs) == ["customers", "kinds", "online", "shop", "accounts", "bank"]
    batch = batch_of([{**row, "time": 1_767_225_600_000_000} for row in ORDERS])
    states = {
        name: json.loads(folded(spec.projection(), batch, spec.filter()))
        for name, spec in specs.items()
        if name not in ("accounts", "bank")
    }
    assert states["kinds"] == {"OrderPlaced": 3, "OrderPaid": 1}
    assert states["online"] == {"Ada": "2019"}
    assert states["shop"] == {"order-1": 1999}
    assert states["customers"]["order-3"] == {}
    for name in ("accounts", "bank"):
        assert specs[name].projection().initial() == {}


def test_the_script_prints_the_state(shop: Path) -> None:
    store = open_event_store("sqlite:///events.db", create=True)
    store.append_batches([batch_of([{**row, "version": n} for n, row in enumerate(ORDERS)])])
    store.close()
    (script,) = (block for block in blocks("python") if "open_event_store" in block)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert (done.stdout, done.returncode) == ('{"order-1":1999}\n', 0), done.stderr


def test_the_projection_on_columns(shop: Path) -> None:
    assert folded(imported("sizes:Largest"), batch_of(ORDERS)) == b"199900"
    assert folded(imported("sizes:Largest"), batch_of([simple("a", {"total": 0.125})])) == b"12"


def test_the_filters_are_filters() -> None:
    conditions = [*blocks("text"), *re.findall(r"as\n`(time > [^`]+)`", PAGE)]
    assert len(conditions) == 2
    for condition in conditions:
        assert Filter(where=condition).where == condition.strip()
    (spelling,) = re.findall(r"ranges first:\n`(.+)`", PAGE)
    assert str(Filter.parse(spelling)) == spelling


def test_the_ready_made_ones_and_their_options_are_listed() -> None:
    table = PAGE.partition("## Ready-made ones")[2].partition("All projections:")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*?)\|", table, re.MULTILINE))
    del rows["use"]
    assert {name: re.findall(r"`(\w+)`", options) for name, options in rows.items()} == {
        name: list(options) for name, options in READY.items()
    }


def test_what_events_have_is_named() -> None:
    from eventchain.projections.page import Events

    (named,) = re.findall(r"`events` has (.*?)\. ", PAGE, re.DOTALL)
    public = {name for name, _ in inspect.getmembers(Events, inspect.isfunction) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)`", named)) == public - {"where"}
