"""The policy line and what counts as tightening it; anchors."""

from __future__ import annotations

import base64
import dataclasses
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventchain.errors import FormatError
from eventchain.formats.anchor import Anchor
from eventchain.formats.policy import Policy

BASE = Policy(0x1E00FFFF, 1024, 65536, 8, "eventsourcing-sqlite/1")
LINE = "bits=1e00ffff events=1024 lag=65536 late=8 source=eventsourcing-sqlite/1"
SOURCES = st.text(string.ascii_letters + string.digits + "+._/@-", min_size=1, max_size=20)
POLICIES = st.builds(
    Policy,
    st.sampled_from([0x2100FFFF, 0x207FFFFF, 0x1F00FFFF, 0x1E0FFFFF, 0x1D00FFFF]),
    st.integers(1, 4) | st.integers(1, 2**63 - 1),
    st.integers(1, 4) | st.integers(1, 2**63 - 1),
    st.integers(0, 3) | st.integers(0, 2**63 - 1),
    st.sampled_from(["a/1", "b/2"]) | SOURCES,
)


def but(**fields):
    return dataclasses.replace(BASE, **fields)


def test_known_policy():
    assert str(BASE) == LINE
    assert Policy.parse(LINE) == BASE


@given(POLICIES)
def test_policies_print_and_parse(policy):
    assert Policy.parse(str(policy)) == policy


@given(st.text(max_size=80))
@example(LINE + " ")
@example(LINE + "\n")
@example(" " + LINE)
@example("")
def test_other_text_is_refused(text):
    with pytest.raises(FormatError):
        Policy.parse(text)


@given(st.integers(0, len(LINE) - 1), st.characters())
def test_a_changed_policy_is_refused_or_printed_so(at, letter):
    text = LINE[:at] + letter + LINE[at + 1 :]
    try:
        policy = Policy.parse(text)
    except FormatError:
        return
    assert str(policy) == text


@pytest.mark.parametrize(
    "text",
    [
        LINE.replace("events=1024 ", ""),
        LINE.replace("bits=1e00ffff events=1024", "events=1024 bits=1e00ffff"),
        LINE.replace("=1024", "=01024"),
        LINE.replace("=1024", "=+1024"),
        LINE.replace("=1024", "=0"),
        LINE.replace("=1024", "=9223372036854775808"),
        LINE.replace("=65536", "=0"),
        LINE.replace("=8", "=-1"),
        LINE.replace("1e00ffff", "1E00FFFF"),
        LINE.replace("1e00ffff", "e00ffff"),
        LINE.replace("1e00ffff", "1e0000ff"),
        LINE.replace("1e00ffff", "1e80ffff"),
        LINE.replace(" lag", "  lag"),
        LINE.replace("source=eventsourcing-sqlite/1", "source="),
        LINE.replace("source=eventsourcing-sqlite/1", "source=a b"),
        LINE.replace("source=eventsourcing-sqlite/1", "source=a=b"),
        LINE + " more=1",
    ],
)
def test_policies_that_are_refused(text):
    with pytest.raises(FormatError):
        Policy.parse(text)


# -- tightening


@pytest.mark.parametrize(
    "tighter",
    [
        but(bits=0x1D00FFFF),
        but(bits=0x1E00FFFE),
        but(events=1023),
        but(lag=65535),
        but(late=0),
        but(bits=0x1D00FFFF, events=1, lag=1, late=0),
    ],
)
def test_tighter(tighter):
    assert tighter.tightens(BASE)
    assert tighter.allows_nothing_beyond(BASE)
    assert not BASE.tightens(tighter)
    assert not BASE.allows_nothing_beyond(tighter)


@pytest.mark.parametrize(
    "other",
    [
        but(),
        but(bits=0x1E0FFFFF),
        but(bits=0x1F00FFFF),
        but(events=1025),
        but(lag=65537),
        but(late=9),
        but(events=1, late=9),
        but(bits=0x1D00FFFF, lag=65537),
        but(source="eventsourcing-sqlite/2"),
        but(bits=0x1D00FFFF, source="eventsourcing-sqlite/2"),
    ],
)
def test_not_tighter(other):
    assert not other.tightens(BASE)


@given(POLICIES, POLICIES)
def test_what_tightens_is_at_most_the_same_in_all(one, two):
    assert not one.tightens(one)
    assert one.allows_nothing_beyond(one)
    assert not (one.tightens(two) and two.tightens(one))
    if one.tightens(two):
        assert one != two
        assert one.source == two.source
        assert one.events <= two.events
        assert one.lag <= two.lag
        assert one.late <= two.late
        assert one.bits <= two.bits  # for canonical bits the compact form sorts as the target does


# -- anchors

ANCHORS = st.builds(
    Anchor,
    st.sampled_from(["example.com", "example.com/orders@3"]),
    st.integers(0, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)
KNOWN = (
    "example.com/orders 12 "
    + base64.b64encode(b"\x01" * 32).decode()
    + " "
    + base64.b64encode(b"\x02" * 32).decode()
)


def test_known_anchors():
    anchor = Anchor("example.com/orders", 12, b"\x01" * 32, b"\x02" * 32)
    assert str(anchor) == KNOWN
    assert Anchor.parse(KNOWN) == anchor
    genesis = "example.com/orders 0 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
    assert str(Anchor("example.com/orders", 0, b"\x01" * 32)) == genesis
    assert Anchor.parse(genesis + "\n") == Anchor("example.com/orders", 0, b"\x01" * 32, None)


@given(ANCHORS)
def test_anchors_round_trip(anchor):
    assert Anchor.parse(str(anchor)) == anchor
    assert Anchor.parse(str(anchor) + "\n") == anchor


@given(
    st.text(max_size=120)
    | st.lists(st.sampled_from([*KNOWN.split(), "", "0", "x"]), max_size=5).map(" ".join)
)
def test_other_text_is_no_anchor(text):
    try:
        anchor = Anchor.parse(text)
    except FormatError:
        return
    assert str(anchor) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "example.com 12",
        "example.com 12 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",  # no seal, and not the genesis
        KNOWN + " more",
        KNOWN.replace(" ", "  ", 1),
        KNOWN.replace("12", "012"),
        KNOWN.replace("12", "-1"),
        KNOWN.replace("=", "", 1),
        KNOWN.replace("example", "Example"),
        KNOWN + "\n" + KNOWN,
        "\0",
    ],
)
def test_anchors_that_are_refused(text):
    with pytest.raises(FormatError):
        Anchor.parse(text)
