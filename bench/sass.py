"""Counts what the CUDA kernel costs an SM for each nonce, without a GPU, and what rate that allows.

    python bench/sass.py [--json]

NVRTC compiles exactly the text that CuPy gets; nvdisasm shows the machine code, and the instructions of the
lane loop are counted by the pipe that executes them. On Hopper an SM starts 128 instructions a clock, 64 of
them on the ALU and 64 on the FMA pipes (CUDA C++ Programming Guide, arithmetic throughput, 9.0), so a nonce
takes at least max(ALU / 64, FMA / 64, all / 128) clocks. That is a bound by counting, not a measured rate.

The floor is what any kernel of this design executes: 1,805 ALU instructions (rotates, shifts and logic) with
every addition on the FMA pipe; 2,326 when additions are IADD3 on the ALU.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import PackageNotFoundError, files
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from eventchain_kernels import cuda_options, source

ARCHITECTURE = "sm_90"
H200_SMS, H200_GHZ = 132, 1.98
FLOORS = {"floor, additions on the FMA pipe": (1805, 0), "floor, additions as IADD3": (2326, 0)}
ALU = {"FLO", "IABS", "IADD", "IADD3", "IMNMX", "ISETP", "LEA", "LOP3", "MOV", "PLOP3", "PRMT", "SEL", "SGXT",
       "SHF", "VIADD", "VIADDMNMX", "VIMNMX"}  # fmt: skip
FMA = {"FADD", "FFMA", "FMUL", "IMAD"}


class Cost(NamedTuple):
    """Instructions a nonce."""

    alu: int
    fma: int
    other: int = 0

    @property
    def clocks(self) -> float:
        """A nonce on one SM."""
        return max(self.alu / 64, self.fma / 64, sum(self) / 128)

    @property
    def h200_ghs(self) -> float:
        return H200_SMS * H200_GHZ / self.clocks


def _installed(package: str, pattern: str) -> Path:
    """A file of an installed wheel. Raises FileNotFoundError."""
    try:
        for file in files(package) or ():
            if re.search(pattern, str(file)):
                return Path(str(file.locate()))
    except PackageNotFoundError:
        pass
    raise FileNotFoundError(f"{pattern} not found: pip install {package}")


def compile_cubin(text: str, options: tuple[str, ...] = cuda_options(1)) -> tuple[bytes, str]:
    """Compile with NVRTC, no GPU and no driver. Returns the cubin and the compiler's log with what ptxas says
    of registers and spills. Raises FileNotFoundError when NVRTC is missing, ValueError with the log."""
    nvrtc = ctypes.CDLL(str(_installed("nvidia-cuda-nvrtc-cu12", r"libnvrtc\.so\.12$")))
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
        tool = _installed("nvidia-cuda-nvdisasm", r"bin/nvdisasm(\.exe)?$")
        return subprocess.run([tool, "-c", path], check=True, capture_output=True, text=True).stdout


def lane_loop(sass: str) -> Counter[str]:
    """Opcodes that one turn of the lane loop executes when the nonce is no candidate.

    The loop's body is by far the longest stretch without a label. The branch at its end goes around the
    candidate's check to a tail, and the tail's backward branch to the body's label closes the loop.
    """
    text = sass[sass.index(".text.search:") :]
    lines: list[tuple[str, str]] = []  # opcode, operands
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif line.startswith(".text.") and lines:
            break
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)(.*)", line):
            lines.append((found[1], found[2]))
    edges = sorted({*labels.values(), len(lines)})
    begin, end = max(pairwise(edges), key=lambda edge: edge[1] - edge[0])
    branch = next(i for i in range(begin, end) if lines[i][0].startswith("BRA"))
    tail = labels[re.findall(r"\.L_x_\d+", lines[branch][1])[0]]
    back = next(
        i
        for i in range(tail, len(lines))
        if lines[i][0].startswith("BRA") and labels[re.findall(r"\.L_x_\d+", lines[i][1])[0]] == begin
    )
    return Counter(opcode for opcode, _ in lines[begin : branch + 1] + lines[tail : back + 1])


def cost_of(opcodes: Counter[str]) -> Cost:
    kinds = Counter[str]()
    for opcode, count in opcodes.items():
        base = opcode.split(".")[0]
        kinds["alu" if base in ALU else "fma" if base in FMA else "other"] += count
    return Cost(kinds["alu"], kinds["fma"], kinds["other"])


def main() -> int:
    try:
        cubin, log = compile_cubin(source("search.cu"))
        opcodes = lane_loop(disassemble(cubin))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    cost = cost_of(opcodes)
    registers = int(re.findall(r"Used (\d+) registers", log[log.index("'search'") :])[0])
    if "--json" in sys.argv[1:]:
        print(
            json.dumps(dict(cost._asdict(), clocks=cost.clocks, h200_ghs=cost.h200_ghs, registers=registers))
        )
        return 0
    print(
        f"{'instructions a nonce':34} {'ALU':>6} {'FMA':>6} {'other':>6} {'clocks/SM':>10} {'H200 GH/s':>10}"
    )
    rows = {f"search.cu, {registers} registers": cost} | {name: Cost(*row) for name, row in FLOORS.items()}
    for name, row in rows.items():
        print(f"{name:34} {row.alu:6} {row.fma:6} {row.other:6} {row.clocks:10.2f} {row.h200_ghs:10.2f}")
    print("GH/s are an H200's bounds from counting (132 SMs at 1.98 GHz), not measured")
    print(", ".join(f"{opcode} {count}" for opcode, count in opcodes.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
