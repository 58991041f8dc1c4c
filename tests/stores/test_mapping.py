"""Mappings of tables: what a file may say, what is wrong in it, and that no column is left out."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.config import resolve
from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores.mapping import Mapping, load_mapping, parse_mapping
from eventchain.formats.policy import SOURCE, other_source

FILE = Path("m.toml")
PRESETS = {"axon4": "23e07225ea50dbea", "axon5": "ddbbebaf51fdb532", "marten": "70815135f54c4066"}
WHOLE = """\
# A comment
table = "log"
position = "n"
stream = ["tenant", "name"]
version = "v"
id = "uid"
type = "kind"
time = "at"
time_format = "iso"
data = "body"
metadata = ["note", "*"]
nullable = ["time"]
"""


def test_everything_is_read():
    mapping = parse_mapping(WHOLE, FILE)
    assert mapping == Mapping(
        table="log", position="n", stream=("tenant", "name"), version="v", id=("uid",), type="kind",
        time="at", time_format="iso", data="body", listed=("note", "*"), nullable=frozenset({"time"}),
    )  # fmt: skip


def test_five_lines_are_enough():
    few = 'table = "t"\nposition = "n"\nstream = "s"\nid = "i"\ntype = "t"\n'
    mapping = parse_mapping(few, FILE)
    assert mapping.covering(["n", "s", "i", "t"], [], "t") == []
    with pytest.raises(StoreError, match="no chain would cover 'more'"):
        mapping.covering(["n", "s", "i", "t", "more"], [], "t")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('id = "uid"', 'idd = "uid"', "m.toml:6: unknown key 'idd'"),
        ('id = "uid"\n', "", "m.toml: the key 'id' is missing"),
        ('id = "uid"', "id = 7", "m.toml:6: 'id' must be a string"),
        ('id = "uid"', 'id = ""', "m.toml:6: 'id' is no name"),
        ('id = "uid"', "id = []", "m.toml:6: 'id' must be a list of names"),
        ('id = "uid"', 'id = ["a", 1]', "m.toml:6: 'id' must be a list of names"),
        ('["tenant", "name"]', '["name", "name"]', "m.toml:4: 'stream' names something twice"),
        ('"iso"', '"fortnights"', "m.toml:9: 'time_format' cannot be 'fortnights'"),
        ('time = "at"\n', "", "m.toml:8: 'time_format' without 'time'"),
        ('["note", "*"]', '["*", "note"]', "m.toml:11: '*' stands last in a list"),
        ('["note", "*"]', '"*"', "m.toml:11: '*' stands last in a list"),
        ('nullable = ["time"]', 'nullable = ["id"]', "m.toml:12: 'nullable' cannot hold 'id'"),
        ("version =", "version", "m.toml is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old, new, said):
    assert old in WHOLE
    with pytest.raises(ConfigError) as caught:
        parse_mapping(WHOLE.replace(old, new), FILE)
    assert caught.value.message.startswith(said)


def test_files_and_presets(tmp_path):
    presets = sorted(entry.name for entry in (files("eventchain.eventstores") / "mappings").iterdir())
    assert [f"{name}.toml" for name in PRESETS] == presets
    for name, digest in PRESETS.items():  # what is sealed with one stays verifiable with it
        assert load_mapping(name).digest() == digest
    for value, said in (("axon6", "'axon6' is neither"), ("", "names no mapping")):
        with pytest.raises(ConfigError, match=said) as caught:
            load_mapping(value)
        assert "axon4|axon5|marten" in caught.value.hint
    with pytest.raises(ConfigError, match="cannot read the mapping"):
        load_mapping(f"{tmp_path}/none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot read the mapping"):
        load_mapping(f"{tmp_path}/bytes.toml")


# -- covering


COLUMNS = ["n", "tenant", "name", "v", "uid", "kind", "at", "body", "note"]


def test_what_is_covered():
    mapping = parse_mapping(WHOLE, FILE)
    # tenant, since "a/b" and "c" give the stream of "a" and "b/c"; at, since it is text
    assert mapping.covering(COLUMNS, ["at"], "log") == ["note", "at", "tenant"]
    assert mapping.covering([*COLUMNS, "later"], [], "log") == ["note", "later", "tenant"]
    with pytest.raises(StoreError, match=r"m.toml:7: log has no column 'kind'") as caught:
        mapping.covering([name for name in COLUMNS if name != "kind"], [], "log")
    assert "tenant" in caught.value.hint


def test_what_is_not_covered_is_refused():
    plain = replace(parse_mapping(WHOLE, FILE), listed=("note",))
    with pytest.raises(
        StoreError, match=r"m.toml:11: no chain would cover 'tenant', 'name', 'at' of log"
    ) as caught:
        plain.covering(COLUMNS, ["at"], "log")
    assert "one moment in many ways" in caught.value.hint
    assert "joined" in caught.value.hint
    whole = replace(plain, listed=("note", "at", "tenant"))
    assert whole.covering(COLUMNS, ["at"], "log") == ["note", "at", "tenant"]
    with pytest.raises(StoreError, match="would cover 'body'") as caught:
        whole.covering(COLUMNS, ["at", "body"], "log")
    assert "large object" in caught.value.hint
    either = replace(whole, stream=("tenant", "name"), id=("name", "tenant"), listed=("note", "at", "uid"))
    with pytest.raises(StoreError, match="would cover 'tenant', 'name'"):
        either.covering(COLUMNS, ["at"], "log")


@given(st.data())
def test_a_table_that_is_taken_is_covered(data):
    """Each column is a field by itself, stands in the list, or is the last of several whose others are."""
    columns = list("abcdefg")
    pick = st.sampled_from(columns)
    joined = st.lists(pick, min_size=1, max_size=3, unique=True).map(tuple)
    mapping = Mapping(
        table="t", position=data.draw(pick), stream=data.draw(joined), id=data.draw(joined),
        type=data.draw(pick), listed=data.draw(st.lists(pick, unique=True).map(tuple) | st.just(("*",))),
    )  # fmt: skip
    try:
        listed = mapping.covering(columns, [], "t")
    except StoreError:
        return
    known = {mapping.position, mapping.type, *listed}
    for _ in columns:
        known |= {names[-1] for names in (mapping.stream, mapping.id) if known.issuperset(names[:-1])}
    assert known == set(columns)


# -- the digest


@pytest.mark.parametrize(
    "change",
    [
        {"position": "m"}, {"stream": ("name", "tenant")}, {"id": ("x",)}, {"type": "x"}, {"version": None},
        {"time": "x"}, {"time_format": "seconds"}, {"data": "x"}, {"listed": ("*",)},
        {"listed": None, "metadata": "note"}, {"nullable": frozenset()},
    ],
    ids=str,
)  # fmt: skip
def test_the_digest_says_what_decides_the_bytes(change):
    mapping = parse_mapping(WHOLE, FILE)
    assert replace(mapping, **change).digest() != mapping.digest()


def test_the_digest_says_nothing_else():
    mapping = parse_mapping(WHOLE, FILE)
    again = parse_mapping('sequences = ["s"]\nschema = "x"\n' + WHOLE.replace('"log"', '"other"'), FILE)
    assert again.digest() == mapping.digest() == "d56eec4df4a9a6cb"
    assert SOURCE.fullmatch(f"table-sqlite/1-{mapping.digest()}")


def test_another_mapping_is_named():
    assert "mapping changed" in other_source("table-sqlite/1-aa", "table-sqlite/1-bb")
    assert "mapping" not in other_source("table-sqlite/1-aa", "eventchain-sqlite/1")


# -- its path in a URL


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("table+sqlite:///a.db?mapping=m.toml", "table+sqlite:////x y/a.db?mapping=/x%20y/m.toml"),
        (
            "table+sqlite:////a.db?table=t&mapping=f/m.toml",
            "table+sqlite:////a.db?table=t&mapping=/x%20y/f/m.toml",
        ),
        ("table+sqlite:////a.db?mapping=/m.toml", "table+sqlite:////a.db?mapping=/m.toml"),
        (
            "table+postgresql:///d?mapping=m.toml&table=t",
            "table+postgresql:///d?mapping=/x%20y/m.toml&table=t",
        ),
        ("table+postgresql:///d?mapping=marten", "table+postgresql:///d?mapping=marten"),
    ],
)
def test_a_relative_path_is_of_the_configurations_folder(url, resolved):
    assert resolve(url, Path("/x y")) == resolved
