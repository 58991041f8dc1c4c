"""Device code as text: one SHA-256d core and the search kernels, behind thin OpenCL, CUDA and host shells.

Headers are pasted into the text, not passed by ``-I``: CuPy's cache key does not see included files (a
changed header would silently run the old kernel), and PoCL breaks on include paths with spaces.
"""

from __future__ import annotations

import re
from importlib.resources import files

CUDA_GROUP = 128
"""Threads in a block of the CUDA search kernel."""
CUDA_GROUPS_AN_SM = 7
"""Blocks of it that an SM holds: 65,536 registers, at most 72 a thread, and no spills."""
CUDA_VERSIONS = 4
"""Rolled versions that share a message schedule."""

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)


def cuda_options(versions: int) -> tuple[str, ...]:
    """With what NVRTC compiles ``search.cu``, besides the architecture."""
    return f"-DGROUP={CUDA_GROUP}", f"-DGROUPS_AN_SM={CUDA_GROUPS_AN_SM}", f"-DVERSIONS={versions}"


def source(name: str) -> str:
    """The text of a shell (``search.cl``, ``search.cu`` or ``host.c``) with its headers pasted in."""
    text = (files(__name__) / name).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: source(match[1]), text)
