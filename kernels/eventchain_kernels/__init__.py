"""Device code as text: one SHA-256d core and the search kernels, behind thin OpenCL, CUDA and host shells.

Headers are pasted into the text, not passed by ``-I``: CuPy's cache key does not see included files (a
changed header would silently run the old kernel), and PoCL breaks on include paths with spaces.
"""

from __future__ import annotations

import re
from importlib.resources import files

CUDA_GROUP = 128
"""Threads in a block of the CUDA search kernel."""
CUDA_GROUPS_AN_SM = {"ALU": 7, "FMA": 7, "FP64": 5}
"""The blocks that an SM shall hold, by the pipe that shifts and rotates schedule words (see ``search.cu``):
of 65,536 registers a thread gets at most 72, or 96 for doubles, and nothing spills."""
CUDA_VERSIONS = 8
"""Rolled versions that share a message schedule. More gain little: its cost is spread over them already."""

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)


def cuda_options(versions: int, pipe: str) -> tuple[str, ...]:
    """With what NVRTC compiles ``search.cu``, besides the architecture. ``pipe`` is a key of
    :data:`CUDA_GROUPS_AN_SM`."""
    return (
        f"-DGROUP={CUDA_GROUP}",
        f"-DGROUPS_AN_SM={CUDA_GROUPS_AN_SM[pipe]}",
        f"-DVERSIONS={versions}",
        f"-DSIGMA_PIPE={pipe}",
    )


def source(name: str) -> str:
    """The text of a shell (``search.cl``, ``search.cu`` or ``host.c``) with its headers pasted in."""
    text = (files(__name__) / name).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: source(match[1]), text)
