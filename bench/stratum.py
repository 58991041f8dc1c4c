"""What a Stratum server leaves of a miner's own rate: cpuminer mines chains for `eventchain mine`.

    python bench/stratum.py --minerd PATH [--loads 24:40 20:600 18:10000] [--miners 1 2] [--cores 2]

PATH is pooler's `minerd`, built elsewhere. For each load, a difficulty and so many blocks of one event each,
and each number of miners, which share --cores threads: a new chain is mined to its end with these miners
connected, and verified. Counted is from the first sealed block to the last. All runs on one machine, so the
server's CPU time, printed beside, is taken from the miners.

Two figures, as shares of the own rate (`minerd --benchmark` with as many threads, before and after each
chain): what the blocks should have cost, which luck makes uncertain by 1 in the root of their number, given
beside; and what was tried for them, which luck does not touch: a thread of minerd tries nonces in order from
a start that it has to itself, so the nonce of a block tells how many. A block whose job was refreshed or that
several miners worked on counts too little there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from _peers import minerd_rate
from _results import heading, write

from eventchain.chain.prefix import SealedPrefix
from eventchain.chain.view import ChainView
from eventchain.chainstores import open_chain_store
from eventchain.config import Config
from eventchain.formats.header import bits_for_difficulty, work_of

OWN_SECONDS = 6.0
LIMIT_SECONDS = 500.0


def eventchain(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "eventchain", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def new_chain(folder: Path, difficulty: float, blocks: int) -> tuple[Config, int]:
    """Returns its configuration and the port that it will listen on."""
    origin = ["--origin", "bench.example/stratum", "--block-events", "1"]
    eventchain(folder, "init", *origin, "--difficulty", f"{difficulty:g}", "--backend", "cpu")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = folder / "eventchain.toml"
    text = file.read_text().replace("[stratum]", f'[stratum]\nlisten = "127.0.0.1:{port}"')
    file.write_text(text.replace('backend = "cpu"', 'backend = "stratum"'))
    events = ({"specversion": "1.0", "id": f"{n}", "source": "bench", "type": "t"} for n in range(blocks))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    eventchain(folder, "import", "events.jsonl")
    return Config.load(file), port


def mined(minerd: list[str], difficulty: float, blocks: int, miners: int, cores: int) -> dict[str, float]:
    """Expected and tried hashes a second, and the server's CPU seconds a block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, port = new_chain(folder, difficulty, blocks)
        threads = cores // miners
        command = [*minerd, "-a", "sha256d", "-o", f"stratum+tcp://127.0.0.1:{port}", "-R", "1", "-q"]
        server = subprocess.Popen(
            [sys.executable, "-m", "eventchain", "mine"], cwd=folder, stderr=subprocess.DEVNULL
        )
        rigs = [
            subprocess.Popen(
                [*command, "-u", f"rig{number}", "-p", "x", "-t", str(threads)], stderr=subprocess.DEVNULL
            )
            for number in range(miners)
        ]
        try:
            with closing(open_chain_store(config.chain)) as store:
                prefix = SealedPrefix(store)
                first, began = next_sealed(prefix), time.monotonic()
                while prefix.height < blocks and time.monotonic() < began + LIMIT_SECONDS:
                    prefix.advance()
                    time.sleep(0.05)
                seconds, last = time.monotonic() - began, prefix.height
                view = ChainView(store)
                headers = np.concatenate([rows.headers for rows in view.blocks(first + 1, last + 1)])
            _, _, used = os.wait4(server.pid, 0)
            server.returncode = 0
        finally:
            for process in [server, *rigs]:
                if process.returncode is None:
                    process.kill()
                    process.wait()
        eventchain(folder, "verify")
    counts = headers["nonce"].astype(">u4").view("<u4")  # it counts with the bytes of a nonce reversed
    tried = float((counts.astype(np.int64) % ((2**32 - 1) // threads) + 1).sum()) * threads
    return {
        "blocks": last - first, "seconds": seconds,
        "expected": (last - first) * work_of(bits_for_difficulty(difficulty)) / seconds,
        "tried": tried / seconds, "server_cpu": (used.ru_utime + used.ru_stime) / seconds,
    }  # fmt: skip


def next_sealed(prefix: SealedPrefix) -> int:
    deadline = time.monotonic() + 60
    while prefix.height < 1:
        prefix.advance()
        if time.monotonic() > deadline:
            raise SystemExit("nothing is sealed")
        time.sleep(0.01)
    return prefix.height


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minerd", type=shlex.split, required=True, metavar="PATH")
    parser.add_argument("--loads", nargs="+", default=["24:40", "20:600", "18:10000"], metavar="BITS:BLOCKS")
    parser.add_argument("--miners", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    figures = heading("stratum") | {"cores": options.cores, "loads": {}}
    for load in options.loads:
        difficulty, blocks = float(load.partition(":")[0]), int(load.partition(":")[2])
        for miners in options.miners:
            own = [minerd_rate(options.minerd, options.cores, OWN_SECONDS).wall]
            found: dict[str, Any] = mined(options.minerd, difficulty, blocks, miners, options.cores)
            own.append(minerd_rate(options.minerd, options.cores, OWN_SECONDS).wall)
            rate = statistics.mean(own)
            found |= {
                "own_rates": own, "expected_of_own": found["expected"] / rate,
                "tried_of_own": found["tried"] / rate, "luck": found["blocks"] ** -0.5,
            }  # fmt: skip
            figures["loads"][f"{difficulty:g} bits, {miners} miners"] = found
            print(
                f"{difficulty:g} bits, {found['blocks']:,} blocks, {miners} miners: own rate "
                f"{rate / 1e6:.1f} MH/s; expected {found['expected_of_own']:.1%} ± {found['luck']:.1%}, "
                f"tried {found['tried_of_own']:.1%}; server {found['server_cpu']:.1%} of a core",
                flush=True,
            )
    figures["machine"]["load_after"] = os.getloadavg()[0]
    write(figures, "-".join(map(str, options.miners)) + "-miners")


if __name__ == "__main__":
    main()
