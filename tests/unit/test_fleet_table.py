"""What `eventchain fleet` shows, on screens of any size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.cli.fleet_table import shown


def row(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "worker": f"web{number}.0a1b2c3d", "group": "workers", "number": 0, "rate": 1.5e6, "pieces": 12_345,
        "device": "AMD EPYC, 2 cores, AVX-512", "errors": 0, "seen": 1.2, "shut_out": None, "there": True,
        **more,
    }  # fmt: skip


def facts(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    rate = sum(one["rate"] for one in rows if one["there"])
    return {"workers": list(rows), "rate": rate, "coordinators": [{}], "pieces_out": 3, "hashes_left": None,
            "seconds_left": None, **more}  # fmt: skip


GONE, SHUT = {"there": False, "seen": 300.0}, {"there": False, "shut_out": "counter 5 meets no target"}


def test_a_wide_screen_shows_all():
    lines = shown(facts(row(1), row(20, **GONE), row(3, **SHUT), hashes_left=3e9, seconds_left=2000.0), 200)
    assert lines == [
        "1 worker, 1.5 MH/s; 1 coordinator, 3 pieces out; 3 Ghashes to go, about 33.3 min",
        "worker          group    device                          rate  pieces  errors         seen",
        "web1.0a1b2c3d   workers  AMD EPYC, 2 cores, AVX-512  1.5 MH/s  12,345       0      1 s ago",
        "web20.0a1b2c3d  workers  AMD EPYC, 2 cores, AVX-512  1.5 MH/s  12,345       0  5.0 min ago  gone",
        "web3.0a1b2c3d   workers  AMD EPYC, 2 cores, AVX-512  1.5 MH/s  12,345       0      1 s ago  "
        "shut out: counter 5 meets no target",
    ]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (85, "web3.0a1b2c3d  workers  AMD EPYC,…  1.5 MH/s  12,345       0  1 s ago  shut out: cou…"),
        (75, "web3.0a1b2c3d  AMD EPYC,…  1.5 MH/s  12,345       0  1 s ago  shut out: co…"),
        (50, "web3.0a1b2c3d  1.5 MH/s  1 s ago  shut out: count…"),
        (30, "web3.0a1b2c3d  shut out: coun…"),
    ],
)
def test_a_narrow_one_what_matters_most(width, line):
    assert shown(facts(row(3, **SHUT)), width)[-1] == line


def test_a_low_one_says_how_many_more_there_are():
    lines = shown(facts(*(row(number) for number in range(100))), 80, 24)
    assert len(lines) == 24
    assert lines[0].startswith("100 workers, 150 MH/s")
    assert lines[-1] == "and 79 more devices"
    assert shown(facts(*(row(number) for number in range(22))), 80, 24)[-1].startswith("web21.")


def test_without_a_worker_it_says_so():
    assert shown(facts(), 80) == ["0 workers, 0 H/s; 1 coordinator, 3 pieces out"]


text = st.text(max_size=64)
rows = st.builds(
    row, worker=text, device=text, rate=st.floats(0, 1e30), pieces=st.integers(0, 2**64),
    errors=st.integers(0, 2**32), seen=st.floats(0, 600), shut_out=st.none() | text, there=st.booleans(),
)  # fmt: skip


@given(st.lists(rows, max_size=30), st.integers(20, 200), st.integers(1, 40))
def test_no_line_is_longer_than_the_screen_is_wide(devices, width, height):
    lines = shown(facts(*devices), width, height)
    assert len(lines) <= height
    for line in lines:
        assert len(line) <= width
        assert line.isprintable()
