"""Device code as text: one SHA-256d core and the search kernels, behind thin OpenCL, CUDA and host shells.

Headers are pasted into the text, not passed by ``-I``: CuPy's cache key does not see included files (a
changed header would silently run the old kernel), and PoCL breaks on include paths with spaces.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import NamedTuple

CUDA_GROUP = 128
"""Threads in a block of the CUDA search kernel."""


class Variant(NamedTuple):
    """How the CUDA kernel spreads its work over the pipes of an SM; see ``search.cu``."""

    add_pipe: str
    sigma_pipe: str
    groups_an_sm: int
    """Blocks that an SM shall hold: of 65,536 registers a thread gets at most 72, or 96 for doubles, and
    nothing spills."""


CUDA_VARIANTS = {
    "alu": Variant("ALU", "ALU", 7),
    "imad": Variant("FMA", "ALU", 7),
    "imad.hi": Variant("FMA", "FMA", 7),
    "fp64": Variant("FMA", "FP64", 5),
}
CUDA_VERSIONS = 8
"""Rolled versions that share a message schedule. More gain little: its cost is spread over them already."""

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)


def cuda_options(versions: int, variant: Variant) -> tuple[str, ...]:
    """With what NVRTC compiles ``search.cu``, besides the architecture."""
    return (
        f"-DGROUP={CUDA_GROUP}",
        f"-DGROUPS_AN_SM={variant.groups_an_sm}",
        f"-DVERSIONS={versions}",
        f"-DADD_PIPE={variant.add_pipe}",
        f"-DSIGMA_PIPE={variant.sigma_pipe}",
    )


def source(name: str) -> str:
    """The text of a shell (``search.cl``, ``search.cu`` or ``host.c``) with its headers pasted in."""
    text = (files(__name__) / name).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: source(match[1]), text)
