"""Counts what the CUDA kernel costs an SM for each hash, without a GPU, and what rate that allows.

    python bench/sass.py [--json]

NVRTC compiles exactly the text that CuPy gets; nvdisasm shows the machine code, and the instructions that a
hash executes are counted by the pipe that executes them. What a Hopper SM does in a clock, in results for
threads (CUDA C++ Programming Guide, "Arithmetic Instructions", compute capability 9.0; shared memory has 32
banks of a word):

    ALU   64   logic, shift, funnel shift, IADD3, compare
    FMA   64   IMAD. The guide gives one rate for 32-bit multiplication and none for its upper half alone:
               were IMAD.HI as slow as 16 a clock, one version would take 26.1 clocks, 8 as many as here.
    FP64  64   DFMA, DADD: units of their own
    LSU   32   words that LDS and STS move
    all  128   four schedulers start an instruction for a warp of 32 each

A hash takes at least as many clocks as the pipe that is busiest. That is a bound by counting, not a measured
rate. The floor for one version is what any kernel of this design executes: 1,805 ALU instructions (rotates,
shifts and logic) with every addition on the FMA pipe; 2,326 when additions are IADD3 on the ALU.

Cubins of other miners for sm_90 that EVENTCHAIN_PEER_CUBIN names (as PATH names folders), each of one kernel
that tries one nonce at a time, are counted alike.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from importlib.metadata import PackageNotFoundError, files
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from eventchain_kernels import CUDA_VARIANTS, cuda_options, source

ARCHITECTURE = "sm_90"
H200_SMS, H200_GHZ = 132, 1.98
PIPES = {
    "ALU": {"FLO", "IABS", "IADD", "IADD3", "IMNMX", "ISETP", "LEA", "LOP3", "MOV", "PLOP3", "PRMT", "SEL",
            "SGXT", "SHF", "VIADD", "VIADDMNMX", "VIMNMX"},
    "FMA": {"FADD", "FFMA", "FMUL", "IMAD"},
    "FP64": {"DADD", "DFMA", "DMUL"},
    "LSU": {"LDS", "STS"},
}  # fmt: skip
RATES = {"ALU": 64, "FMA": 64, "FP64": 64, "LSU": 32}
ISSUE = 128
VERSIONS = (1, 4, 8, 16)
WORDS = {"64": 2, "128": 4}


class Cost(NamedTuple):
    """For each hash: instructions by pipe and in all, and words through the LSU."""

    alu: float
    fma: float
    fp64: float = 0
    lsu: float = 0
    all: float = 0

    @property
    def clocks(self) -> float:
        """A hash on one SM."""
        pipes = zip((self.alu, self.fma, self.fp64, self.lsu), RATES.values(), strict=True)
        return max(max(count / rate for count, rate in pipes), self.all / ISSUE)

    @property
    def h200_ghs(self) -> float:
        return H200_SMS * H200_GHZ / self.clocks


FLOORS = {"floor of one version": Cost(1805, 1041), "the same, additions as IADD3": Cost(2326, 0)}


def _installed(name: str, *packages: str) -> Path:
    """A file of an installed wheel, `name` a pattern. Raises FileNotFoundError."""
    for package in packages:
        try:
            for file in files(package) or ():
                if re.fullmatch(name, file.name):
                    return Path(str(file.locate()))
        except PackageNotFoundError:
            pass
    raise FileNotFoundError(f"{name} not found: pip install {packages[0]}")


def compile_cubin(text: str, options: tuple[str, ...]) -> tuple[bytes, str]:
    """Compile with NVRTC, no GPU and no driver. Returns the cubin and the compiler's log with what ptxas says
    of registers and spills. Raises FileNotFoundError when NVRTC is missing, ValueError with the log."""
    nvrtc = ctypes.CDLL(str(_installed(r"libnvrtc\.so\.\d+", "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc")))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()

    def read(what: str) -> bytes:
        getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw

    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"search.cu", 0, None, None)
    try:
        arguments = [f"--gpu-architecture={ARCHITECTURE}", "--ptxas-options=-v", *options]
        encoded = (ctypes.c_char_p * len(arguments))(*(argument.encode() for argument in arguments))
        failed = nvrtc.nvrtcCompileProgram(program, len(arguments), encoded)
        log = read("ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise ValueError(log)
        return read("CUBIN"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def disassemble(cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "search.cubin")
        path.write_bytes(cubin)
        tool = shutil.which("nvdisasm") or _installed(r"nvdisasm(\.exe)?", "nvidia-cuda-nvdisasm")
        return subprocess.run([tool, "-c", path], check=True, capture_output=True, text=True).stdout


class Code(NamedTuple):
    """One kernel's machine code: its opcodes, for each the instructions that may follow, and where blocks
    begin."""

    opcodes: list[str]
    next: list[list[int]]
    blocks: list[int]


def code_of(sass: str, kernel: str) -> Code:
    """Raises ValueError for control flow that cannot be followed, such as calls."""
    lines: list[tuple[str, str, str]] = []  # predicate, opcode, operands
    labels: dict[str, int] = {}
    for line in sass[sass.index(f".text.{kernel}:") :].splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif line.startswith((".text.", ".section")) and lines:
            break
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+)?\s*([A-Z][\w.]*)(.*)", line):
            lines.append((found[1] or "", found[2], found[3]))

    def target(operands: str) -> int:
        return labels[re.findall(r"\.L_x_\d+", operands)[0]]

    joins = defaultdict(list)  # BSSY names where the threads of a BSYNC meet and go on
    for _, opcode, operands in lines:
        if opcode.startswith("BSSY"):
            joins[re.findall(r"B\d+", operands)[0]].append(target(operands))
    edges: list[list[int]] = []
    for i, (predicate, opcode, operands) in enumerate(lines):
        match opcode.split(".")[0]:
            case "BRA":
                goes_on = predicate or re.match(r"\s*!?U?P\d", operands)
                edges.append([target(operands), *([i + 1] if goes_on else [])])
            case "EXIT":
                edges.append([i + 1] if predicate else [])
            case "BSYNC":
                edges.append(joins[re.findall(r"B\d+", operands)[0]] + ([i + 1] if predicate else []))
            case "BRX" | "BRXU" | "JMP" | "JMX" | "CALL" | "RET":
                raise ValueError(f"cannot follow {opcode}")
            case _:
                edges.append([i + 1])
    ends = {i + 1 for i, edge in enumerate(edges) if edge != [i + 1]}
    return Code([opcode for _, opcode, _ in lines], edges, sorted({0, *labels.values(), *ends}))


def way(code: Code, start: int, goals: set[int], without: tuple[int, int] | None = None) -> list[int]:
    """The fewest instructions from `start` on that lead to a goal, itself left out, and not over one branch.
    Raises ValueError when there is no way."""
    before: dict[int, int] = {}
    queue = [start]
    for i in queue:
        for k in code.next[i]:
            if (i, k) == without:
                continue
            if k in goals:
                path = [i]
                while path[-1] != start:
                    path.append(before[path[-1]])
                return path[::-1]
            if k not in before and k < len(code.opcodes):
                before[k] = i
                queue.append(k)
    raise ValueError("no way there")


def hash_cost(code: Code, versions: int) -> Cost:
    """What a hash costs that is no candidate.

    The longest block hashes one nonce with one version. The shortest way from it back to it is the loop over
    versions; the shortest that does not close that loop is the loop over nonces, which executes the former
    once. Candidates, the next unit of work and the end are detours and longer. A kernel without a loop, as
    other miners have, is executed from its start to the first end behind the block.
    """
    start = max(pairwise([*code.blocks, len(code.opcodes)]), key=lambda block: block[1] - block[0])[0]
    try:
        inner = way(code, start, {start})
    except ValueError:
        ends = {i for i, opcode in enumerate(code.opcodes) if opcode == "EXIT"}
        whole = way(code, 0, {start}) + way(code, start, ends)
        total = Counter(code.opcodes[i] for i in whole) + Counter(["EXIT"])
    else:
        total = Counter(code.opcodes[i] for i in inner)
    if versions > 1:
        (back,) = ((i, k) for i, k in pairwise([*inner, start]) if k <= i)
        outer = Counter(code.opcodes[i] for i in way(code, start, {start}, back))
        total = outer + Counter({opcode: (versions - 1) * count for opcode, count in total.items()})
    pipes = Counter[str]()
    for opcode, count in total.items():
        base, *suffixes = opcode.split(".")
        pipe = next((name for name, bases in PIPES.items() if base in bases), "other")
        pipes[pipe] += count * (next((WORDS[s] for s in suffixes if s in WORDS), 1) if pipe == "LSU" else 1)
    return Cost(*(pipes[pipe] / versions for pipe in PIPES), total.total() / versions)


class Kernel(NamedTuple):
    registers: int
    spilled: int  # bytes stored
    shared: int  # bytes a block
    cost: Cost


def kernel(versions: int, variant: str) -> Kernel:
    """A variant of search.cu, compiled and counted. Raises as :func:`compile_cubin`."""
    cubin, log = compile_cubin(source("search.cu"), cuda_options(versions, CUDA_VARIANTS[variant]))
    said = log[log.index("'search'") :]
    numbers = (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes smem")
    registers, spilled, shared = (int(re.findall(number, said)[0]) for number in numbers)
    return Kernel(registers, spilled, shared, hash_cost(code_of(disassemble(cubin), "search"), versions))


def peers() -> dict[str, Cost]:
    """Costs of the kernels in the cubins that EVENTCHAIN_PEER_CUBIN names."""
    costs = {}
    for path in filter(None, os.environ.get("EVENTCHAIN_PEER_CUBIN", "").split(os.pathsep)):
        sass = disassemble(Path(path).read_bytes())
        (name,) = re.findall(r"^\.text\.(\w+):", sass, re.MULTILINE)
        costs[f"peer, {name}"] = hash_cost(code_of(sass, name), 1)
    if not costs:
        print("peers are left out: EVENTCHAIN_PEER_CUBIN names no cubin", file=sys.stderr)
    return costs


def main() -> int:
    try:
        variants = {
            (name, versions): kernel(versions, name) for name in CUDA_VARIANTS for versions in VERSIONS
        }
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    if "--json" in sys.argv[1:]:
        rows = [
            {
                "variant": name, "versions": versions, **found.cost._asdict(), "clocks": found.cost.clocks,
                "h200_ghs": found.cost.h200_ghs, "registers": found.registers, "shared": found.shared,
            }
            for (name, versions), found in variants.items()
        ]  # fmt: skip
        print(json.dumps(rows))
        return 0
    print(f"{'instructions a hash':30} {'ALU':>6} {'FMA':>6} {'FP64':>6} {'LSU':>6} {'all':>6} "
          f"{'clocks/SM':>10} {'H200 GH/s':>10} {'registers':>10}")  # fmt: skip
    costs = {
        f"{name}, {versions} versions": (found.cost, found.registers)
        for (name, versions), found in variants.items()
    }
    costs |= {name: (cost, 0) for name, cost in (FLOORS | peers()).items()}
    for name, (cost, registers) in costs.items():
        print(f"{name:30} {cost.alu:6.0f} {cost.fma:6.0f} {cost.fp64:6.0f} {cost.lsu:6.0f} {cost.all:6.0f} "
              f"{cost.clocks:10.2f} {cost.h200_ghs:10.2f} {registers or '':>10}")  # fmt: skip
    print("LSU: words. GH/s are an H200's bounds from counting (132 SMs at 1.98 GHz), not measured")
    return 0


if __name__ == "__main__":
    sys.exit(main())
