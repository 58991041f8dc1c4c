"""Finding mining backends, testing them and choosing one.

A backend is an entry point of the group ``eventchain.backends`` and is imported only when it is asked
for. Whatever goes wrong with one becomes a BackendError that names it and says why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from eventchain.contracts.backend import Backend, Device, Miner, Work
from eventchain.errors import BackendError, ConfigError
from eventchain.formats.header import HEADER, VERSION, bits_for_difficulty, work_of
from eventchain.mining.check import Checked, check
from eventchain.mining.schedule import MAX_HEADERS, PATIENCE, ROLLS, rolls_of

GROUP = "eventchain.backends"
AUTO = "auto"
LAST = "reference"
"""The definition, and slow: ``auto`` takes it only when there is nothing else."""
AUTO_SECONDS = 0.3
"""How long ``auto`` measures a backend."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend's name and those of its devices that are to be used, at least one; they are tested.

    reasons: why another backend (by ``auto``) or one of its devices was left out, by its name
    told: the backend's own ``summary``
    """

    name: str
    devices: tuple[Device | Miner, ...]
    reasons: dict[str, str] = field(default_factory=dict)
    told: str = ""

    @property
    def summary(self) -> str:
        """Who mines, for people: what the backend says, or the names of its devices."""
        return self.told or ", ".join(device.name for device in self.devices)

    @property
    def set_aside(self) -> dict[str, str]:
        """The reasons of its own devices that are left out, without those of other backends."""
        others = available()
        return {name: reason for name, reason in self.reasons.items() if name not in others}

    @property
    def searchers(self) -> tuple[Device, ...]:
        """The devices, where each searches what it is told to, as one of a fleet must. Raises BackendError
        where one is a miner that rolls by itself."""
        found = tuple(device for device in self.devices if not isinstance(device, Miner))
        if len(found) < len(self.devices):
            raise BackendError(
                f"the backend {self.name!r} cannot search for others", hint="choose one that uses this host"
            )
        return found


@dataclass(frozen=True, slots=True)
class Survey:
    """An entry point: the names of its devices, or the reason why none is usable and what to do.

    faults: why devices among these failed their self-test, by name
    """

    name: str
    devices: tuple[str, ...]
    reason: str = ""
    hint: str = ""
    faults: dict[str, str] = field(default_factory=dict)


# -- finding ------------------------------------------------------------------------------------------


def available() -> list[str]:
    """Names of all registered backends, usable or not, ``reference`` last."""
    return sorted({entry.name for entry in entry_points(group=GROUP)}, key=lambda name: (name == LAST, name))


def open_backend(name: str, settings: Mapping[str, Any] | None = None) -> Backend:
    """Import and open a backend, its name in any case, with the configuration's settings for it. Raises
    ConfigError when there is none of this name or a setting is wrong, BackendError with the reason when it
    cannot be used here."""
    name = _registered(name)
    entries = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if not entries:
        raise ConfigError(f"there is no backend {name!r}", hint=f"there are {AUTO}, {', '.join(available())}")
    if len(entries) > 1:
        raise BackendError(
            f"two packages register a backend {name!r}: {', '.join(entries)}", hint="uninstall one of them"
        )
    (entry,) = entries.values()
    try:
        backend: Backend = entry.load()(**settings or {})
        names = [device.name for device in backend.devices]
    except (BackendError, ConfigError):
        raise
    except ImportError as error:
        raise BackendError(f"backend {name!r} cannot be imported: {error}", hint=_extra(entry)) from error
    except Exception as error:  # a stranger's code may raise anything
        raise BackendError(f"backend {name!r} is broken: {_said(error)}", hint=_package(entry)) from error
    if not names:
        raise BackendError(f"backend {name!r} has no device")
    if len(set(names)) < len(names):
        raise BackendError(f"backend {name!r} has two devices of one name: {', '.join(names)}")
    return backend


def _registered(name: str) -> str:
    """A backend's name as it is registered, when only its case differs."""
    names = available()
    alike = [one for one in names if one.casefold() == name.casefold()]
    return alike[0] if name not in names and len(alike) == 1 else name


def survey() -> list[Survey]:
    """Every backend with its devices, tested, or why it has none. Never raises for a backend's faults."""
    found = []
    for name in available():
        try:
            devices = open_backend(name).devices
            faults = _tested(name, devices).reasons
            found.append(Survey(name, tuple(device.name for device in devices), faults=faults))
        except BackendError as error:
            found.append(Survey(name, (), error.message, error.hint))
    return found


def _extra(entry: EntryPoint) -> str:
    """How to install what the backend imports, where its package has an extra of that name. The project's
    own backends say it themselves: on the package index its name is another project's."""
    extras = () if entry.dist is None else entry.dist.metadata.get_all("Provides-Extra") or ()
    if entry.dist is not None and entry.name in extras and entry.dist.name != "eventchain":
        return f"pip install '{entry.dist.name}[{entry.name}]'"
    return _package(entry)


def _package(entry: EntryPoint) -> str:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
    return f"it is {entry.value} of {package}"


def _said(error: Exception) -> str:
    return error.message if isinstance(error, BackendError) else f"{type(error).__name__}: {error}"


# -- choosing -----------------------------------------------------------------------------------------


def choose(name: str = AUTO, device: str | None = None, settings: Mapping[str, Any] | None = None) -> Choice:
    """The backend of this name, or for ``auto`` the one that measures fastest, with its devices tested.

    device: indices (``0`` or ``0,2``) or a part of a device's name, in any case; None takes all.
    settings: the configuration's, for the backend of this name; ``auto`` asks no backend that needs some.
    A device that fails its self-test is left out, and says why in ``reasons``, as long as another passes.

    Raises ConfigError when there is no such backend or no device matches, BackendError with every reason
    when nothing is usable.
    """
    if name.casefold() != AUTO:
        name = _registered(name)
        backend = open_backend(name, settings)
        choice = _tested(name, select(backend.devices, device))
        return replace(choice, told=getattr(backend, "summary", ""))
    best: Choice | None = None
    fastest = 0.0
    reasons: dict[str, str] = {}
    matchless = False
    for candidate in available():
        if candidate == LAST and best:
            continue
        try:
            choice = _tested(candidate, select(open_backend(candidate).devices, device))
            rate = sum(measure(one, AUTO_SECONDS / len(choice.devices)) for one in choice.devices)
        except (BackendError, ConfigError) as error:
            matchless |= isinstance(error, ConfigError)
            reasons[candidate] = str(error)
            continue
        if rate > fastest:
            best, fastest = choice, rate
    if best is not None:
        return Choice(best.name, best.devices, reasons | best.reasons)
    if not reasons:
        raise BackendError("there is no mining backend", hint="reinstall eventchain, it brings some")
    every = "; ".join(f"{candidate}: {reason}" for candidate, reason in reasons.items())
    if matchless:
        raise ConfigError(f"no device matches {device!r}", hint=every)
    raise BackendError(f"no backend is usable: {every}")


def select(devices: Sequence[Device | Miner], device: str | None) -> tuple[Device | Miner, ...]:
    """The devices that ``device`` means (see ``choose``). Raises ConfigError listing them when none does."""
    if device is None:
        return tuple(devices)
    parts = [part.strip() for part in device.split(",")]
    if all(part.isdecimal() for part in parts):
        indices = sorted({int(part) for part in parts})
        if indices[-1] < len(devices):
            return tuple(devices[index] for index in indices)
    elif matching := tuple(one for one in devices if device.casefold() in one.name.casefold()):
        return matching
    raise ConfigError(f"no device matches {device!r}", hint=f"there are {_listed(devices)}")


def _listed(devices: Sequence[Device | Miner]) -> str:
    return ", ".join(f"{index}: {one.name}" for index, one in enumerate(devices))


def _tested(name: str, devices: Sequence[Device | Miner]) -> Choice:
    passed: list[Device | Miner] = []
    reasons: dict[str, str] = {}
    hint = ""
    for device in devices:
        try:
            self_test(device)
            passed.append(device)
        except BackendError as error:
            reasons[device.name] = error.message
            hint = error.hint
    if not passed:
        every = "; ".join(reasons.values())
        raise BackendError(f"no device of backend {name!r} is usable: {every}", hint=hint)
    return Choice(name, tuple(passed), reasons)


# -- testing and measuring ----------------------------------------------------------------------------

_WINDOW = 256
_GENESIS = (
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e"
    "67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c"
)
_BLOCK_1 = (
    "010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000982051fd1e4ba744bbbe680e"
    "1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299"
)


def self_test(device: Device | Miner) -> None:
    """Known answers: Bitcoin's first two blocks, ranges without a hit, rolled versions beyond 2**32. A miner
    has none: nothing but what it finds can be tested, and is.

    Raises BackendError naming the device when it fails or an answer is wrong.
    """
    if isinstance(device, Miner):
        return
    blocks = np.frombuffer(bytes.fromhex(_GENESIS + _BLOCK_1 + _GENESIS), HEADER).copy()
    # Rolled as the engine does it, so that nothing has to be compiled that hard headers do not need.
    counters = blocks["nonce"].astype(np.uint64) * np.uint64(ROLLS)
    start = counters - np.array([100, _WINDOW - 1, _WINDOW], np.uint64)  # in the middle, last, just missed
    blocks["nonce"] = 0
    _expect(device, Work(blocks, start, _WINDOW, ROLLS), {0: int(counters[0]), 1: int(counters[1])})

    # The genesis block with version 0x20000000 and a target of 16 bits, computed with the reference: of
    # sixteen rolled versions, the only hit within 10,000 counters.
    rolled = np.repeat(blocks[:1], 2)
    rolled["version"], rolled["bits"] = VERSION, 0x1F00FFFF
    hit = 6_442_458_459
    work = Work(rolled, np.array([hit - 100, hit + 1], np.uint64), _WINDOW, rolls=16)
    _expect(device, work, {0: hit})


def _expect(device: Device, work: Work, answers: dict[int, int]) -> None:
    checked, _ = _timed(device, work)
    found = dict(zip(checked.index.tolist(), checked.counter.tolist(), strict=True))
    if found != answers:
        missed = len(answers.keys() - found.keys())
        raise BackendError(
            f"{device.name} failed its self-test: it missed {missed} of {len(answers)} known solutions",
            hint="its driver or its hardware is faulty; choose another with --device",
        )


def _timed(device: Device, work: Work) -> tuple[Checked, float]:
    """Search and check; the seconds are those of the search alone."""
    try:
        began = time.perf_counter()
        solutions = device.search(work)
        seconds = time.perf_counter() - began
        return check(work, solutions), max(seconds, 1e-9)
    except Exception as error:  # a stranger's code may raise anything
        hint = error.hint if isinstance(error, BackendError) else ""
        raise BackendError(f"{device.name} failed: {_said(error)}", hint=hint) from error


def measure(device: Device | Miner, seconds: float = 1.0, *, difficulty: float | None = None) -> float:
    """Hashes a second, measured over about ``seconds`` after a warm-up.

    difficulty: None measures one header that is never solved over a large range; otherwise many headers
        of this difficulty in bits, each searched until it is solved or given up, as the engine does it.
    Raises BackendError when the device fails, and for a miner, which cannot be told what to try.
    """
    if isinstance(device, Miner):
        raise BackendError(f"{device.name} cannot be measured but by what it mines")
    budget, hashes, spent = 2.0**14, 0, 0.0
    _timed(device, _load(budget, difficulty))  # compiles, allocates
    while spent < seconds:
        work = _load(budget, difficulty)
        checked, elapsed = _timed(device, work)
        if elapsed < seconds / 4 and len(work.headers) < MAX_HEADERS:  # too short to say much
            budget *= min(8.0, seconds / 3 / elapsed)
        else:
            hashes, spent = hashes + checked.hashes, spent + elapsed
    return hashes / spent


def measure_all(
    devices: Sequence[Device | Miner], seconds: float = 1.0, *, difficulty: float | None = None
) -> float:
    """Hashes a second of devices that work at the same time, as a fleet's searches do, which share workers.
    See :func:`measure`, also for what is raised."""
    with ThreadPoolExecutor(len(devices)) as pool:
        return sum(pool.map(lambda one: measure(one, seconds, difficulty=difficulty), devices))


def _load(budget: float, difficulty: float | None) -> Work:
    """Headers that take about so many hashes."""
    bits = 0x01010000 if difficulty is None else bits_for_difficulty(difficulty)  # 0x01010000: target 1
    expected = work_of(bits)
    count = min(int(budget), PATIENCE * expected)
    headers = np.zeros(min(int(budget / min(expected, budget)), MAX_HEADERS), HEADER)
    headers["version"], headers["bits"] = VERSION, bits
    headers["merkle_root"][:, :8] = np.arange(len(headers), dtype=np.uint64).view(np.uint8).reshape(-1, 8)
    return Work(headers, np.zeros(len(headers), np.uint64), count, rolls_of(expected))
