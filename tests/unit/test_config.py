"""The configuration file: strict keys, complaints with a line, paths, and writing it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventchain.config import Config, Mining, render, resolve, sqlite_path, write_atomically
from eventchain.errors import ConfigError
from eventchain.formats.anchor import Anchor

ANCHOR = Anchor("example.com/orders", 0, bytes(range(32)), bytes(32))
WHOLE = f"""\
store = "sqlite:///events.db"
chain = "sqlite:////var/lib/chain.db"
anchor = "{ANCHOR}"

[mining]
backend = "cpu"
device = "0,2"
block_events = 512
duty = 30
"""


def load(folder: Path, text: str) -> Config:
    file = folder / "eventchain.toml"
    file.write_text(text, encoding="utf-8")
    return Config.load(file)


def test_everything_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, WHOLE) == Config(
        store=f"sqlite:///{tmp_path}/events.db",
        chain="sqlite:////var/lib/chain.db",
        anchor=ANCHOR,
        mining=Mining("cpu", "0,2", 512, 30),
    )


def test_only_the_stores_are_needed(tmp_path: Path) -> None:
    config = load(tmp_path, 'store = "sqlite:///e.db"\nchain = "sqlite:///c.db"\n')
    assert config.anchor is None
    assert config.mining == Mining("auto", None, None, 100)


@pytest.mark.parametrize(
    ("old", "new", "said", "hint"),
    [
        ('store = "sqlite', 'stroe = "sqlite', ":1: unknown key 'stroe'", "store, chain, anchor, mining"),
        ("device =", "devices =", ":7: unknown key 'devices' in [mining]", "backend, device, block_events"),
        ("[mining]", "[minning]", ":5: unknown key 'minning'", "mining"),
        ('chain = "sqlite:////var/lib/chain.db"\n', "", "the key 'chain' is missing", "chain ="),
        ("block_events = 512", "block_events = 0", ":8: 'block_events' must be at least 1, not 0", ""),
        ("block_events = 512", "block_events = true", ":8: 'block_events' must be a whole number", ""),
        ("duty = 30", "duty = 0", ":9: 'duty' must be at least 1, not 0", ""),
        ("duty = 30", "duty = 101", ":9: 'duty' must be at most 100, not 101", ""),
        ('device = "0,2"', "device = 0", ":7: 'device' must be a string, not 0", ""),
        ("example.com/orders 0", "example.com/orders 1 2 3", ":3: ", "origin height link seal"),
        ("block_events = 512", "block_events 512", "is not TOML: ", ""),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str, hint: str) -> None:
    assert old in WHOLE
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, WHOLE.replace(old, new))
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert str(tmp_path) in caught.value.message


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        Config.load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"is a folder \(name the file: .*/eventchain.toml"):
        Config.load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        Config.load(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    "name", ["plain", "with space", "per%20cent", "question?mark", "hash#mark", "grün", "a@b:c"]
)
def test_relative_paths_are_in_the_files_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    from eventchain.chainstores import open_chain_store
    from eventchain.eventstores import open_event_store

    folder = tmp_path / name
    folder.mkdir()
    url = resolve("sqlite:///chain.db", folder)
    open_chain_store(url, create=True).close()
    open_event_store(resolve("sqlite:///events.db", folder), create=True).close()
    assert {"chain.db", "events.db"} <= set(os.listdir(folder))
    assert sqlite_path(url) == folder / "chain.db"


def test_a_database_in_memory_is_refused(tmp_path: Path) -> None:
    for url in ("sqlite:///:memory:", "eventsourcing+sqlite:///:memory:", "sqlite:///:memory:?x=y"):
        with pytest.raises(ConfigError, match="would be gone"):
            resolve(url, tmp_path)
        with pytest.raises(ConfigError, match="would be gone"):
            load(tmp_path, f'store = "{url}"\nchain = "sqlite:///c.db"\n')


def test_other_urls_stay_as_they_are(tmp_path: Path) -> None:
    for url in ("sqlite:////var/x.db", "postgresql://db/x", "postgresql:///x", "nonsense", "sqlite://"):
        assert resolve(url, tmp_path) == url
    assert resolve("eventsourcing+sqlite:///a.db", tmp_path) == f"eventsourcing+sqlite:///{tmp_path}/a.db"
    assert sqlite_path("postgresql:///x") is None


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, texts, st.none() | texts, st.integers(1, 2**63 - 1), st.integers(1, 100))
def test_what_is_written_is_read_back(
    store: str, chain: str, backend: str, device: str | None, block_events: int, duty: int
) -> None:
    mining = Mining(backend, device, block_events, duty)
    text = render("x:" + store, "y:" + chain, ANCHOR, mining)
    assert Config.parse(text, Path("/folder/f.toml")) == Config("x:" + store, "y:" + chain, ANCHOR, mining)


@given(st.integers(0, len(WHOLE)), st.integers(0, 12), st.text(max_size=12))
def test_any_text_is_a_configuration_or_a_complaint(at: int, cut: int, put: str) -> None:
    with contextlib.suppress(ConfigError):
        Config.parse(WHOLE[:at] + put + WHOLE[at + cut :], Path("/folder/f.toml"))


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "anchor"
    write_atomically(file, "one\n")
    write_atomically(file, "two\n")
    assert file.read_text() == "two\n"
    assert os.listdir(tmp_path) == ["anchor"]
    with pytest.raises(OSError, match="No such file"):
        write_atomically(tmp_path / "nowhere" / "anchor", "x")
