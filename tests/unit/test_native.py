"""The generated SHA-256 code: every variant that this CPU can run against hashlib, and its cache."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from eventchain_kernels import native
from eventchain_kernels.native import Column, Digests, jit
from eventchain_kernels.native.hash_batch import WINDOW
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import BITCOIN

from eventchain.formats.hashing import integers, values
from eventchain.formats.header import (
    HEADER,
    ROLL_MASK,
    ROLL_SHIFT,
    header_hashes,
    meets_target,
    with_counters,
)
from eventchain.mining.jobs import JOB

ABLE = jit.variants()
PREFIXES = st.sampled_from([b"", b"\x00", b"\x01", b"eventchain/1\n", bytes(range(64)), bytes(130)])


@pytest.fixture(params=[*jit.VARIANTS, "many lanes"], scope="module")
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each variant, as if forced from outside; and the many lanes of AVX-512 on narrower vectors."""
    name = request.param
    patch = pytest.MonkeyPatch()
    if name == "many lanes":
        narrow = jit.VARIANTS["avx2" if "avx2" in ABLE else "generic"]
        patch.setitem(jit.VARIANTS, name, narrow._replace(lanes=jit.VARIANTS["avx512"].lanes))
    elif name not in ABLE:
        pytest.skip(f"this CPU has no {name}")  # it has what it has
    patch.setattr(native, "FASTEST_HASHING", (name,))
    patch.setattr(native, "FASTEST_CHAIN", (name,))
    patch.setattr(jit, "variants", lambda: (name,))
    native._compiled.cache_clear()
    yield name
    patch.undo()
    native._compiled.cache_clear()


def digests(messages: list[bytes]) -> np.ndarray:
    raw = b"".join(hashlib.sha256(message).digest() for message in messages)
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)


# -- hashing ------------------------------------------------------------------------------------------


def spans(messages: list[bytes | None], *, field: int = 0, skipped: int = 0, wide: bool = False) -> Column:
    """The messages as Arrow holds them: a few more values before, and whatever bytes under a null."""
    array = pa.array([b"before"] * skipped + messages, pa.large_binary() if wide else pa.binary())
    return values(array.slice(skipped), field)


def field_of(message: bytes | None, width: int) -> bytes:
    size = 2 ** (8 * width) - 1 if message is None else len(message)
    return (size.to_bytes(width, "big") if width else b"") + (message or b"")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(0, 40))
def test_joined(variant, data, n):
    """Any parts in any order, and the messages' lengths."""
    parts, plain = [], [b""] * n
    for kind in data.draw(
        st.lists(st.sampled_from(["bytes", "rows", "integers", "values"]), min_size=1, max_size=6)
    ):
        if kind == "bytes":
            part = data.draw(PREFIXES)
            more = [part] * n
        elif kind == "rows":
            width, seed = data.draw(st.integers(0, 70)), data.draw(st.integers(0, 99))
            part = np.random.default_rng(seed).integers(0, 256, (n, width, 2), np.uint8)
            more = [row.tobytes() for row in part]
        elif kind == "integers":
            skipped = data.draw(st.integers(0, 9))
            numbers = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n))
            part = integers(pa.array([7] * skipped + numbers, pa.int64()).slice(skipped))
            more = [number.to_bytes(8, "big", signed=True) for number in numbers]
        else:
            field, skipped = data.draw(st.sampled_from([0, 4, 8])), data.draw(st.integers(0, 9))
            drawn = data.draw(st.lists(st.none() | st.binary(max_size=300), min_size=n, max_size=n))
            part = spans(drawn, field=field, skipped=skipped, wide=data.draw(st.booleans()))
            more = [field_of(message, field) for message in drawn]
        parts.append(part)
        plain = [left + right for left, right in zip(plain, more, strict=True)]
    longest = np.empty(2, np.int64)
    np.testing.assert_array_equal(native.sha256_joined(n, *parts, longest=longest), digests(plain))
    length, index = longest.tolist()
    assert length == max(map(len, plain), default=0)
    assert not n or len(plain[index]) == length


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 40), length=st.integers(0, 200), prefix=PREFIXES, seed=st.integers(0, 2**32))
def test_rows(variant, n, length, prefix, seed):
    rows = np.random.default_rng(seed).integers(0, 256, (n, length), np.uint8)
    expected = digests([prefix + row.tobytes() for row in rows])
    np.testing.assert_array_equal(native.sha256_rows(rows, prefix), expected)


@settings(max_examples=20, deadline=None)
@given(inner=st.lists(st.binary(max_size=200), max_size=80), seed=st.integers(0, 99))
def test_a_part_that_is_a_digest_of_others(variant, inner, seed):
    """The digest of a message that is still worked on does not fall into the place of one not yet read."""
    n = len(inner)
    rows = np.random.default_rng(seed).integers(0, 256, (n, 40), np.uint8)
    lengths = np.random.default_rng(seed).integers(0, 2 * WINDOW, n)
    outer = [bytes(int(length)) for length in lengths]
    part = Digests((b"salt", spans(inner, field=8)))
    found = native.sha256_joined(n, rows, part, spans(outer), b"end")
    commitments = digests([b"salt" + field_of(message, 8) for message in inner])
    plain = zip(rows, commitments, outer, strict=True)
    expected = [row.tobytes() + commitment.tobytes() + more + b"end" for row, commitment, more in plain]
    np.testing.assert_array_equal(found, digests(expected))


def test_two_parts_that_are_digests_are_refused():
    part = Digests((b"salt",))
    with pytest.raises(ValueError, match="one part at most"):
        native.sha256_joined(3, part, part)


def test_results_are_freed_at_once():
    """Nothing in a cycle holds them: megabytes would wait for Python's collector."""
    found = native.sha256_joined(3, b"begin", Digests((b"salt",)))
    freed = weakref.ref(found)
    del found
    assert freed() is None


def test_every_length_around_the_padding(variant):
    messages = [bytes(range(256))[:length] for length in range(257)]
    np.testing.assert_array_equal(native.sha256_joined(257, spans(messages)), digests(messages))


@pytest.mark.parametrize("first", [0, 3, 64, WINDOW - 8, WINDOW - 3, WINDOW])
@pytest.mark.parametrize("field", [0, 4, 8])
def test_parts_around_the_end_of_a_window(variant, first, field):
    lengths = [*range(20), *range(50, 80), *range(WINDOW - 80, WINDOW + 80), 2 * WINDOW]
    messages = [bytes([length % 251]) * length for length in lengths]
    begun = b"x" * first
    found = native.sha256_joined(len(messages), begun, spans(messages, field=field), b"end")
    plain = [begun + field_of(message, field) + b"end" for message in messages]
    np.testing.assert_array_equal(found, digests(plain))


def test_one_long_message_among_short_ones(variant):
    messages = [b"abc", np.random.default_rng(0).bytes(1_000_000), b"", b"e" * 97]
    np.testing.assert_array_equal(native.sha256_joined(4, spans(messages)), digests(messages))


def test_many_rows_on_all_cores(variant, monkeypatch):
    monkeypatch.setattr(native, "MIN_SHARE", 100)
    rows = np.random.default_rng(1).integers(0, 256, (10_001, 80), np.uint8)
    np.testing.assert_array_equal(native.sha256_rows(rows), digests([row.tobytes() for row in rows]))


def test_compression(variant):
    messages = [bytes([i]) * i for i in range(56)]  # short enough to fit one block with their padding
    blocks = b"".join((m + b"\x80").ljust(56, b"\0") + (8 * len(m)).to_bytes(8, "big") for m in messages)
    state = native.compress_rows(np.frombuffer(blocks, np.uint8).reshape(-1, 64))
    assert state.dtype == np.uint32
    np.testing.assert_array_equal(state, digests(messages).view(">u4"))


def test_rows_need_not_lie_in_order(variant):
    rows = np.random.default_rng(2).integers(0, 256, (50, 70), np.uint8)
    turned = np.asfortranarray(rows)[::2]
    np.testing.assert_array_equal(native.sha256_rows(turned), digests([row.tobytes() for row in turned]))


def levels_above(nodes: list[bytes], before: int, peaks: dict[int, bytes], levels: int) -> list[list[bytes]]:
    """As ``hash_levels`` says, with hashlib."""
    above = []
    for level in range(levels):
        row = [peaks[level], *nodes] if before >> level & 1 else nodes
        nodes = [hashlib.sha256(b"\x01" + x + y).digest() for x, y in zip(row[::2], row[1::2], strict=False)]
        if not nodes:
            break
        above.append(nodes)
    return above


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 200),
    before=st.integers(0, 2**63 - 1) | st.integers(0, 300),
    levels=st.integers(0, 9) | st.just(64),
    shared=st.booleans(),
)
def test_levels_of_a_merkle_log(variant, n, before, levels, shared):
    nodes = np.random.default_rng(n).integers(0, 256, (n, 32), np.uint8)
    peaks = {level: bytes([level]) * 32 for level in range(63) if before >> level & 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "MIN_PAIRS", 16 if shared else n + 1)
        found = native.hash_levels(nodes, before, peaks, levels)
    expected = levels_above([node.tobytes() for node in nodes], before, peaks, levels)
    assert [[node.tobytes() for node in row] for row in found] == expected


def test_nodes_need_not_lie_in_order(variant):
    nodes = np.asfortranarray(np.random.default_rng(3).integers(0, 256, (40, 32), np.uint8))[::2]
    (found,) = native.hash_levels(nodes, levels=1)
    expected = levels_above([node.tobytes() for node in nodes], 0, {}, 1)
    assert [node.tobytes() for node in found] == expected[0]


def test_as_many_rows_as_messages():
    with pytest.raises(ValueError, match="3 rows are given for 4 messages"):
        native.sha256_joined(4, np.zeros((3, 8), np.uint8))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="two dimensions"):
        native.sha256_rows(np.zeros(64, np.uint8))
    with pytest.raises(ValueError, match=r"\(n, 64\)"):
        native.compress_rows(np.zeros((2, 63), np.uint8))
    with pytest.raises(ValueError, match=r"\(n, 32\)"):
        native.hash_levels(np.zeros((2, 31), np.uint8))


# -- seals --------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 9), seed=st.integers(0, 2**32))
def test_seals_in_a_chain(variant, n, seed):
    rng = np.random.default_rng(seed)
    headers, links = rng.integers(0, 256, (n, 80), np.uint8), rng.integers(0, 256, (n, 32), np.uint8)
    extranonces, previous = rng.integers(0, 2**63, n), rng.bytes(32)
    below, plain = previous, []
    for link, header, extranonce in zip(links, headers, extranonces.tolist(), strict=True):
        parts = b"\x02", below, link.tobytes(), header.tobytes(), extranonce.to_bytes(8, "big")
        below = hashlib.sha256(b"".join(parts)).digest()
        plain.append(below)
    seals = native.chain_seals(previous, links, headers, extranonces)
    assert [seal.tobytes() for seal in seals] == plain


def test_seals_of_other_sizes_are_refused():
    header, link, number = np.zeros((1, 80), np.uint8), np.zeros((1, 32), np.uint8), np.zeros(1, np.int64)
    for wrong in (
        (bytes(31), link, header, number),
        (bytes(32), link[:0], header, number),
        (bytes(32), link, header[:, :79], number),
        (bytes(32), link, header, number.astype(np.int32)),
    ):
        with pytest.raises(ValueError, match="for each header a link and an extranonce"):
            native.chain_seals(*wrong)


# -- the search ---------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["one version", "rolled"], scope="module")
def rolled(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def job_of(raw: bytes, target: int, first: int, count: int, rolled: bool) -> np.ndarray:
    """A job that has the header's own version among its versions, all of which count."""
    versions = native.versions_at_a_time(rolled=rolled)
    job = np.zeros(1, JOB)
    job["header"] = np.frombuffer(raw, HEADER)
    job["target"] = np.frombuffer(target.to_bytes(32, "little"), "<u4")
    roll = roll_of(raw) // versions * versions
    job["first"], job["count"], job["roll"], job["rolls"] = first, count, roll, 2**16
    job["end"] = 2**48
    return job


def roll_of(raw: bytes) -> int:
    return (int.from_bytes(raw[:4], "little") & ROLL_MASK) >> ROLL_SHIFT


def found_by(variant: str, rolled: bool, jobs: np.ndarray) -> list[int]:
    found = np.full(int(jobs["index"].max()) + 1, -1, np.int64)
    native.search_jobs(jobs, found, rolled=rolled, variant=variant)
    return found.tolist()


def hash_of(raw: bytes) -> int:
    return int.from_bytes(header_hashes(np.frombuffer(raw, HEADER))[0].tobytes(), "little")


def block(text: str) -> tuple[bytes, int, int, int]:
    """Bytes, nonce, counter and hash."""
    raw = bytes.fromhex(text)
    nonce = int.from_bytes(raw[76:], "little")
    return raw, nonce, nonce << 16 | roll_of(raw), hash_of(raw)


def test_all_256_bits_are_compared(variant, rolled):
    for text in list(BITCOIN.values())[:6]:
        raw, nonce, counter, value = block(text)
        for word in range(8):
            above, below = value + (1 << 32 * word), value - (1 << 32 * word)
            if below >= 0:
                assert found_by(variant, rolled, job_of(raw, below, nonce, 1, rolled)) == [-1]
            if word < 6:  # or another version's may do
                assert found_by(variant, rolled, job_of(raw, above, nonce, 1, rolled)) == [counter]
        assert found_by(variant, rolled, job_of(raw, value, nonce, 1, rolled)) == [counter]
        assert found_by(variant, rolled, job_of(raw, value - 1, nonce, 1, rolled)) == [-1]


def test_every_place_in_a_vector(variant, rolled):
    raw, nonce, counter, value = block(BITCOIN[0])
    for before in range(40):
        for first, count, expected in [
            (nonce - before, before + 1, counter),
            (nonce - before - 1, before + 1, -1),
            (nonce - before, 100, counter),
        ]:
            assert found_by(variant, rolled, job_of(raw, value, first, count, rolled)) == [expected]


def test_only_the_counters_asked_for_count(variant, rolled):
    raw, nonce, counter, value = block(
        next(text for text in BITCOIN.values() if roll_of(bytes.fromhex(text)))
    )
    job = job_of(raw, value, nonce - 5, 10, rolled)
    for begin, end, expected in [
        (counter, counter + 1, counter),
        (counter + 1, 2**48, -1),
        (0, counter, -1),
        (counter, counter, -1),
    ]:
        job["begin"], job["end"] = begin, end
        assert found_by(variant, rolled, job) == [expected]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), first=st.integers(0, 2**32 - 50), roll=st.integers(0, 2**12 - 1))
def test_any_header_any_version_any_nonce(variant, rolled, seed, first, roll):
    """One counter is asked for, of a target that its hash just meets."""
    versions = native.versions_at_a_time(rolled=rolled)
    rng = np.random.default_rng(seed)
    raw = rng.bytes(80)
    lane, nonce = int(rng.integers(versions)), first + int(rng.integers(50))
    counter = nonce << 16 | roll * 16 + lane
    mined = with_counters(np.frombuffer(raw, HEADER), np.array([counter], np.uint64), 2**16)
    value = hash_of(mined.tobytes())
    job = job_of(raw, value, first, 50, rolled)
    job["roll"], job["begin"], job["end"] = roll * 16, counter, counter + 1
    assert found_by(variant, rolled, job) == [counter]
    job["target"] = np.frombuffer((value - 1).to_bytes(32, "little"), "<u4")
    assert found_by(variant, rolled, job) == [-1]


def test_jobs_of_solved_headers_are_passed_over(variant, rolled):
    raw, *_ = block(BITCOIN[0])
    jobs = np.repeat(job_of(raw, 2**256 - 1, 7, 50, rolled), 3)
    jobs["index"] = [0, 1, 1]
    found = np.array([5, -1], np.int64)
    native.search_jobs(jobs, found, rolled=rolled, variant=variant)
    assert found.tolist() == [5, 7 << 16]
    native.search_jobs(jobs[:0], found, rolled=rolled, variant=variant)
    assert found.tolist() == [5, 7 << 16]


def test_a_long_search_is_shared_by_threads(variant, rolled, monkeypatch):
    monkeypatch.setattr(native, "cores", lambda: 3)
    raw, nonce, counter, value = block(BITCOIN[0])
    jobs = np.repeat(job_of(raw, 0, nonce - 30_000, 20_000, rolled), 3)
    jobs["index"] = [0, 1, 2]
    jobs["target"][1] = np.frombuffer(value.to_bytes(32, "little"), "<u4")
    jobs["count"] = [20_000, 50_000, 10_000]
    assert found_by(variant, rolled, jobs) == [-1, counter, -1]
    assert meets_target(np.frombuffer(raw, HEADER)).all()


# -- the compiler and its cache -----------------------------------------------------------------------


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


HASH = (
    "import numpy as np; from eventchain_kernels import native;"
    "print(native.sha256_rows(np.zeros((1, 0), np.uint8)).tobytes().hex())"
)
EMPTY = hashlib.sha256().hexdigest()


def test_importing_it_does_not_load_llvm():
    assert python("import sys, eventchain_kernels.native; print('llvmlite' in sys.modules)") == "False"


def test_machine_code_is_kept_and_used_again(tmp_path):
    assert python(HASH, EVENTCHAIN_CACHE=str(tmp_path / "deep" / "cache")) == EMPTY
    (kept,) = (tmp_path / "deep" / "cache").iterdir()
    written = kept.stat().st_mtime_ns
    assert python(HASH, EVENTCHAIN_CACHE=str(kept.parent)) == EMPTY
    assert kept.stat().st_mtime_ns == written
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize("damage", [b"", bytes(5000)])
def test_a_damaged_cache_is_harmless(tmp_path, damage):
    python(HASH, EVENTCHAIN_CACHE=str(tmp_path))
    (kept,) = tmp_path.iterdir()
    good = kept.read_bytes()
    kept.write_bytes(good[: len(good) // 2] + damage)
    assert python(HASH, EVENTCHAIN_CACHE=str(tmp_path)) == EMPTY
    assert kept.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_harmless(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert python(HASH, EVENTCHAIN_CACHE=str(tmp_path / "file" / "cache")) == EMPTY


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mode bits")
def test_a_cache_that_others_may_write_is_not_trusted(tmp_path):
    tmp_path.chmod(0o777)
    assert python(HASH, EVENTCHAIN_CACHE=str(tmp_path)) == EMPTY
    assert list(tmp_path.iterdir()) == []


def test_a_variant_can_be_forced(tmp_path):
    code = "from eventchain_kernels import native; print(native.search_variants())"
    assert python(code, EVENTCHAIN_CPU_FEATURES="generic") == "['generic']"


def test_forcing_what_the_cpu_lacks_is_refused():
    code = (
        "from eventchain.errors import ConfigError\nfrom eventchain_kernels import native\n"
        "try: native.search_variants()\nexcept ConfigError as error: print(error)"
    )
    said = python(code, EVENTCHAIN_CPU_FEATURES="abacus")
    assert "abacus" in said
    assert "generic" in said


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="x86 code")
def test_avx512_code_is_what_it_should_be():
    """Compiled for a CPU that need not be here: 512-bit vectors, rotates and three-operand logic in one
    instruction each, and the schedule mostly in registers."""
    target = jit.machine("avx512")
    text = target.emit_assembly(jit.optimised("search_rolled", "avx512", target))
    body = text[text.index("\nsearch_rolled:") :]
    lines = [line.split() for line in body[: body.index(".Lfunc_end")].splitlines() if "zmm" in line]
    count = Counter(name for name, *_ in lines)
    # Two vectors. Rounds: 4 to 15, 8 in a loop; 0 to 15, 8 in a loop and 56 to 60. Of the schedule 48 words
    # and once more 8 and 5. A rotation is an instruction, and so are an exclusive or of three, the choice
    # and the majority; what does not depend on the nonce is not there.
    rounds, words = 2 * (12 + 8 + 16 + 8 + 5), 2 * (48 + 8 + 5)
    rotations, logic = 6 * rounds + 4 * words, 4 * rounds + 2 * words
    assert 0.85 * rotations < count["vprold"] < rotations
    assert 0.85 * logic < count["vpternlogd"] < logic
    assert count["vpslld"] == 0
    assert count["vpxord"] + count["vpandd"] + count["vpord"] < logic / 100
    moves = [arguments for name, *arguments in lines if name.startswith("vmov")]
    on_the_stack = [place for place in moves if "%rsp" in str(place) or "%rbp" in str(place)]
    assert len(on_the_stack) < len(lines) / 5, (len(on_the_stack), len(lines))
