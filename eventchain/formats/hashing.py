"""SHA-256 over many messages at once, straight over numpy and Arrow buffers."""

from __future__ import annotations

from eventchain_kernels.native import sha256_rows, sha256_spans

__all__ = ["sha256_rows", "sha256_spans"]
