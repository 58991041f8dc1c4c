"""Mining rate against batch size and difficulty, of every backend and device of this host, as a plot.

    python bench/batches.py [--seconds 1] [--rounds 3]

Each point is one `search` over a batch of headers of one difficulty, all of them solved, as the mining engine
calls it: harder headers with rolled versions, easy ones without. Counted is the expected work, and small
batches are repeated, for up to --seconds; every solution is checked. The limit of each line is the same
device's rate on one header that is never solved. Batches that would take longer than --seconds are left
out; rounds alternate over all points, medians are drawn. Writes docs/batches.svg beside the figures.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping

from _results import ROOT, heading, write
from mining import one_header, solved_rate, subjects, warmed_up

from eventchain.contracts.backend import Device
from eventchain.mining.backends import LAST
from eventchain.mining.schedule import ROLLS

SIZES = (1, 10, 100, 1_000, 10_000, 100_000)
DIFFICULTIES = (1, 4, 8, 12, 16, 20, 24)
Points = dict[int, dict[int, list[float]]]
"""Difficulty in bits to batch size to rates in hashes a second, one a round."""


def measure(
    found: Mapping[str, Device], seconds: float, rounds: int
) -> tuple[dict[str, Points], dict[str, float]]:
    limits = {name: one_header(device, seconds, ROLLS).wall for name, device in found.items()}
    wanted = [
        (name, difficulty, size)
        for name in found
        for difficulty in DIFFICULTIES
        for size in SIZES
        if size * 2**difficulty <= limits[name] * seconds
    ]
    points: dict[str, Points] = {name: {} for name in found}
    for _ in range(rounds):
        for name, difficulty, size in wanted:
            rates = points[name].setdefault(difficulty, {}).setdefault(size, [])
            rates.append(solved_rate(found[name], size, difficulty, seconds).wall)
    return points, limits


def plot(points: Mapping[str, Points], limits: Mapping[str, float]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "eventchain"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(points), figsize=(5.2 * len(points), 4), sharey=True, squeeze=False)
    colours = pyplot.get_cmap("viridis")
    for axis, (name, lines) in zip(axes[0], points.items(), strict=True):
        for i, (difficulty, line) in enumerate(lines.items()):
            rates = [statistics.median(rates) / 1e6 for rates in line.values()]
            label = f"{difficulty} bit{'s' if difficulty > 1 else ''}"
            axis.plot(
                list(line), rates, "o-", color=colours(i / len(DIFFICULTIES)), label=label, markersize=3
            )
        axis.axhline(
            limits[name] / 1e6, color="grey", linestyle="--", linewidth=1, label="one header, unsolved"
        )
        axis.set(xscale="log", yscale="log", xlabel="headers in a batch", title=name)
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("MH/s")
    axes[0][-1].legend(fontsize=8, title="difficulty")
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "batches.svg", metadata={"Date": None})
    print("written: docs/batches.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="what a batch may take")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, Device] = {}
    kinds: set[str] = set()
    for subject in subjects():
        backend = subject.name.partition(":")[0]
        # Of the CPU's variants the fastest, which comes first.
        if backend != LAST and (backend != "cpu" or "cpu" not in kinds) and warmed_up(subject):
            found[subject.name] = subject.device
            kinds.add(backend)
    points, limits = measure(found, options.seconds, options.rounds)
    for name, lines in points.items():
        print(f"{name}: {limits[name] / 1e6:.1f} MH/s on one header; by difficulty and batch size, in MH/s")
        print(" " * 8 + "".join(f"{size:>10,}" for size in SIZES))
        for difficulty, line in lines.items():
            rates = "".join(f"{statistics.median(rates) / 1e6:10.2f}" for rates in line.values())
            print(f"{difficulty:3} bits{rates}")
    write(heading("batches") | {"one_header": limits, "rates": points})
    plot(points, limits)


if __name__ == "__main__":
    main()
