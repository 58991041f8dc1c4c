"""Checking and printing an inclusion proof, step by step with plain hashing.

Every step stands in the formats' documentation, so that an outsider can do it without this package. It is
written here once more, one event at a time, and not taken from the code that built the leaf.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Any

import numpy as np

from eventchain.chain.view import BlockView, Event, Hidden, Proof
from eventchain.errors import FormatError
from eventchain.formats.header import HEADER, link_of, meets_target, merkle_root, seal_of, sha256
from eventchain.formats.log import root_from_inclusion
from eventchain.formats.manifest import encode_digest


def commitment_of(event: Event, hidden: Hidden) -> bytes:
    """``H(0x03 ‖ salt ‖ field(data) ‖ field(metadata))``, or what was kept of it by an erasure."""
    if hidden.commitment is not None:
        return hidden.commitment
    return sha256(b"\x03", hidden.salt or b"", _field(event.data), _field(event.metadata))


def entry_of(event: Event, commitment: bytes) -> bytes:
    """The bytes that an event's leaf is the hash of."""
    numbers = struct.pack(">Qqq", event.position, event.version, event.time)
    texts = b"".join(struct.pack(">I", len(text)) + text for text in (event.stream, event.id, event.type))
    return b"eventchain/1\n" + numbers + texts + commitment


def leaf_of(event: Event, hidden: Hidden) -> bytes:
    """``H(0x00 ‖ entry)``"""
    return sha256(b"\x00", entry_of(event, commitment_of(event, hidden)))


def check_proof(proof: Proof) -> list[str]:
    """What does not hold of a proof, nothing when it is good."""
    block, event, wrong = proof.block, proof.event, []
    if proof.hidden.salt is None and not (event.data is event.metadata is None):
        wrong.append("of an erased event nothing proves data or metadata")
    if leaf_of(proof.event, proof.hidden) != proof.leaf:
        wrong.append("the event is not the one that was sealed, or its salt was replaced")
    if root_from_inclusion(proof.leaf, proof.index, block.said.size, proof.path) != block.said.root:
        wrong.append("the path does not lead to the root that the block states")
    try:
        wrong += _check_block(block)
    except FormatError as error:  # a target or an extranonce that none can have
        wrong.append(error.message)
    return wrong


def _check_block(block: BlockView) -> list[str]:
    wrong = []
    header = np.frombuffer(block.header, HEADER)
    if header["merkle_root"].tobytes() != merkle_root(block.manifest, block.extranonce):
        wrong.append("the header is not of the block's manifest")
    if not block.mined or not meets_target(header)[0]:
        wrong.append("the header does not meet its target")
    prev, bits = header["prev"].tobytes(), int(header["bits"][0])
    if link_of(prev, block.manifest, bits) != block.link:
        wrong.append("the link is not the block's")
    seal = seal_of(block.previous_seal or b"", block.link, block.header, block.extranonce)
    if seal != block.seal:
        wrong.append("the seal is not the block's")
    return wrong


def proof_as_dict(proof: Proof) -> dict[str, Any]:
    """The proof as JSON values: digests and bytes in base64, the header in hex. An erased event has no salt,
    no data and no metadata."""
    block, event = proof.block, proof.event
    commitment = commitment_of(event, proof.hidden)
    return {
        "format": "eventchain-proof/1",
        "event": {
            "position": event.position,
            "version": event.version,
            "time": event.time,
            "stream": event.stream.decode("utf-8", "replace"),
            "id": event.id.decode("utf-8", "replace"),
            "type": event.type.decode("utf-8", "replace"),
            "data_base64": _base64(event.data),
            "metadata_base64": _base64(event.metadata),
        },
        "salt": _base64(proof.hidden.salt),
        "commitment": encode_digest(commitment),
        "entry_base64": _base64(entry_of(event, commitment)),
        "leaf": encode_digest(proof.leaf),
        "index": proof.index,
        "size": block.said.size,
        "path": [encode_digest(step) for step in proof.path],
        "root": encode_digest(block.said.root),
        "block": {
            "origin": block.said.origin,
            "height": block.said.height,
            "manifest": block.manifest.decode("ascii"),
            "header": block.header.hex(),
            "extranonce": block.extranonce,
            "link": encode_digest(block.link),
            "previous_seal": encode_digest(block.previous_seal or b""),
            "seal": encode_digest(block.seal or b""),
        },
    }


def _field(value: bytes | None) -> bytes:
    return struct.pack(">Q", 2**64 - 1) if value is None else struct.pack(">Q", len(value)) + value


def _base64(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode("ascii")
