"""What is kept from one process to the next: machine code, and what was measured of a device.

``EVENTCHAIN_CACHE`` is the folder (default: ``eventchain`` in the user's cache directory). What is damaged or
foreign, or cannot be written, costs the time of making it again and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def kept(name: str) -> bytes:
    """What was kept under this name, or nothing."""
    folder = _folder()
    try:
        raw = (folder / name).read_bytes() if _is_ours(folder) else b""
    except OSError:
        raw = b""
    return raw[32:] if len(raw) > 32 and hashlib.sha256(raw[32:]).digest() == raw[:32] else b""


def keep(name: str, content: bytes) -> None:
    """Keep it under this name, whole or not at all."""
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(folder):
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(file.name, folder / name)
    except OSError:
        pass


def _folder() -> Path:
    named = os.environ.get("EVENTCHAIN_CACHE")
    if named:
        return Path(named)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", tempfile.gettempdir())) / "eventchain"
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "eventchain"
    except RuntimeError:  # no home directory
        return Path(tempfile.gettempdir()) / f"eventchain-{os.getuid()}"


def _is_ours(folder: Path) -> bool:
    """What lies there will be executed: no one else may own the folder or write to it."""
    if os.name == "nt":
        return True
    about = folder.stat()
    return about.st_uid == os.getuid() and not about.st_mode & 0o022
