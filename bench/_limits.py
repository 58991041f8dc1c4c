"""The most hashes a second that a core can do: the operations of a hash over what its ports take a clock.

A double hash of a header takes at least 2,846 operations after its midstate, with three-input logic and
rotates (AVX-512): 1,020 rotates, 156 shifts, 628 logic, 1,041 additions, 1 comparison. What depends on no
nonce is not counted, nor rounds after the last word that counts. Without these instructions (AVX2, SSE2) a
rotate is two shifts and one logic operation, and three-input logic is two operations, but three for each of
the 236 choices and majorities (a majority's first exclusive or is left from the round before).

Of these the message schedule of the header's second block is 76 small sigmas, 110 additions and 46 more that
add the round constants; rolled versions have it in common, so n versions do it once for n hashes.

With SHA instructions 61.5 pairs of rounds bind, versions rolled or not.

Throughput, in vector operations a clock and the shifts and rotates among them:

- Zen 5 with a 512-bit data path (Turin, Granite Ridge, Strix Halo): 4 and 2 at every width. AMD, Software
  Optimization Guide for the Zen 5 Microarchitecture (58455); A. Yee, Zen5's AVX512 Teardown (numberworld.org,
  2024). Measured on Turin: 4.0 and 2.0.
- Zen 5 with a 256-bit data path (Strix Point, Krackan) and Zen 4: the same, half of it at 512 bits. AMD,
  Software Optimization Guide for the Zen 4 Microarchitecture (57647). Zen 3 has no AVX-512 (56665).
- Ice Lake, Sapphire Rapids: 3 and 2 (ports 0, 1, 5; shifts on 0, 1), at 512 bits 2 and 1 (ports 0, 5; shifts
  on 0). LLVM's X86SchedIceLake.td; A. Fog, Instruction tables; uops.info. Skylake-SP and Cascade Lake alike,
  without SHA instructions.
- A pair of rounds: two clocks on Zen (measured on Turin: 2.0, the schedule's instructions beside it), three
  on Ice Lake.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROTATES, SHIFTS, ADDS, COMPARES = 1020, 156, 1041, 1
CHOICES, SIGMAS = 236, 392
"""Three-input logic: choices and majorities; the exclusive or of a sigma's three parts."""
SHARED_SIGMAS, SHARED_ADDS = 76, 156
PAIRS = 61.5
BITS = {"avx512": 512, "avx2": 256, "generic": 128}
"""Of a variant's vectors."""


class Core(NamedTuple):
    """vectors: operations a clock and shifts and rotates among them, by the vector's bits
    pair: clocks of a pair of rounds with SHA instructions"""

    name: str
    vectors: dict[int, tuple[int, int]]
    pair: float


ZEN5 = Core("Zen 5", {512: (4, 2), 256: (4, 2), 128: (4, 2)}, 2)
ZEN4 = Core("Zen 4, or Zen 5 with a 256-bit data path", {512: (2, 1), 256: (4, 2), 128: (4, 2)}, 2)
ICE_LAKE = Core("Ice Lake", {512: (2, 1), 256: (3, 2), 128: (3, 2)}, 3)
UNKNOWN = ZEN5._replace(name="not known here, so the bound is that of the widest known, Zen 5")


def this_core() -> Core:
    """This processor's, by the family and model that Linux tells; :data:`UNKNOWN` for any other."""
    info = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    try:
        return core_of(facts["vendor_id"], int(facts["cpu family"]), int(facts["model"]))
    except (KeyError, ValueError):
        return UNKNOWN


def core_of(vendor: str, family: int, model: int) -> Core:
    if vendor == "AuthenticAMD" and family == 0x1A:
        return ZEN5 if model >> 4 in {0, 1, 4, 7} else ZEN4
    if vendor == "AuthenticAMD" and family == 0x19:  # Zen 3 too: it has the same but no AVX-512
        return ZEN4
    if vendor == "GenuineIntel" and family == 6 and model in {0x55, 0x6A, 0x6C, 0x7D, 0x7E, 0x8F, 0xCF}:
        return ICE_LAKE
    return UNKNOWN


def clocks(core: Core, variant: str, rolls: int = 1) -> float:
    """Clocks a hash of a variant of the search, at least, with ``rolls`` versions on one schedule."""
    if variant == "sha":
        return PAIRS * core.pair
    bits = BITS[variant]
    spared = 1 - 1 / rolls
    sigmas, rotates = SIGMAS - SHARED_SIGMAS * spared, ROTATES - 2 * SHARED_SIGMAS * spared
    shifts, adds = SHIFTS - SHARED_SIGMAS * spared, ADDS - SHARED_ADDS * spared + COMPARES
    if bits == 512:
        turns, others = shifts + rotates, sigmas + CHOICES + adds
    else:
        turns, others = shifts + 2 * rotates, rotates + 2 * sigmas + 3 * CHOICES + adds
    at_all, at_turns = core.vectors[bits]
    return max((turns + others) / at_all, turns / at_turns) / (bits // 32)
