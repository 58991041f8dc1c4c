"""The layout of an encrypted payload, and what is bound to it."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from eventchain.errors import FormatError
from eventchain.formats.envelope import MAGIC, MARK, SHORTEST, Envelope, associated, is_envelope

envelopes = st.builds(
    Envelope, st.binary(min_size=16, max_size=16), st.binary(min_size=12, max_size=12), st.binary(min_size=16)
)
texts = st.binary(max_size=20)
bindings = st.tuples(
    st.binary(min_size=16, max_size=16), texts, texts, texts, st.sampled_from(["data", "metadata"])
)


@given(envelopes)
def test_it_is_read_as_it_was_written(envelope: Envelope) -> None:
    raw = bytes(envelope)
    assert raw[:8] == b"\xffEVCSUB\x01" == MAGIC
    assert raw[8:24] + raw[24:36] + raw[36:] == envelope.handle + envelope.nonce + envelope.ciphertext
    assert is_envelope(raw)
    assert Envelope.parse(raw) == envelope


@given(st.binary())
def test_whatever_is_read_is_written_back(raw: bytes) -> None:
    for candidate in (raw, MARK + raw, MAGIC + raw):
        try:
            assert bytes(Envelope.parse(candidate)) == candidate
        except FormatError:
            assert not candidate.startswith(MAGIC) or len(candidate) < SHORTEST


@given(st.text())
def test_no_text_is_taken_for_one(text: str) -> None:
    assert not is_envelope(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions_are_known_as_such(version: int) -> None:
    raw = MARK + bytes([version]) + bytes(60)
    assert is_envelope(raw)
    with pytest.raises(FormatError, match="not known"):
        Envelope.parse(raw)


@given(bindings, bindings)
def test_what_is_bound_differs_for_different_events(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    assert (associated(*one) == associated(*other)) == (one == other)


def test_the_documented_layout_is_what_is_bound() -> None:
    assert associated(bytes(16), "ström".encode(), b"e1", b"T", "data").hex() == (
        "ff45564353554201" + "00" * 16 + "00000006" + "737472c3b66d" + "00000002" + "6531"
        "00000001" + "54" + "00000004" + "64617461"
    )


@given(st.binary(), st.data())
def test_no_bit_can_be_changed(payload: bytes, data: st.DataObject) -> None:
    key, nonce, beside = bytes(range(32)), bytes(12), associated(bytes(16), b"s", b"e", b"t", "data")
    sealed = AESGCM(key).encrypt(nonce, payload, beside)
    raw = bytearray(bytes(Envelope(bytes(16), nonce, sealed)))
    bit = data.draw(st.integers(8 * len(MAGIC), 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    changed = Envelope.parse(bytes(raw))
    beside = associated(changed.handle, b"s", b"e", b"t", "data")
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(changed.nonce, changed.ciphertext, beside)
    whole = changed._replace(handle=bytes(16), nonce=nonce, ciphertext=sealed)
    assert (
        AESGCM(key).decrypt(nonce, whole.ciphertext, associated(bytes(16), b"s", b"e", b"t", "data"))
        == payload
    )
