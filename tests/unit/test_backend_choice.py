"""Finding, testing, measuring and choosing backends. The broken ones are real packages in a folder."""

from __future__ import annotations

import ast
import importlib
import itertools
import subprocess
import sys
import threading
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import numpy as np
import pytest

from eventchain.contracts.backend import Solutions, Work
from eventchain.errors import BackendError, ConfigError
from eventchain.mining import backends
from eventchain.mining.backends import (
    available,
    choose,
    measure,
    measure_all,
    open_backend,
    select,
    self_test,
    survey,
)
from eventchain.mining.check import check


@pytest.fixture
def reference():
    return open_backend("reference").devices[0]


_numbers = itertools.count()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with one module and one backend, as pip would lay it out."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, code: str, extras: str = "") -> None:
        module = f"backend_{next(_numbers)}"  # never imported before
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{name}_backend-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-backend\nVersion: 1.0\n{extras}")
        (info / "entry_points.txt").write_text(f"[eventchain.backends]\n{name} = {module}:open_backend\n")
        importlib.invalidate_caches()

    return install


class Named:
    def __init__(self, name: str, device=None) -> None:
        self.name, self.device = name, device

    def search(self, work: Work) -> Solutions:
        return self.device.search(work)


# -- finding ------------------------------------------------------------------------------------------


def test_the_projects_own_backends_are_found():
    assert {"cpu", "cuda", "opencl", "reference"} <= set(available())
    assert available()[-1] == "reference"


def test_an_unknown_backend_is_a_usage_error_that_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"no backend 'fpga'.*auto.*cpu.*reference"):
        open_backend("fpga")
    with pytest.raises(ConfigError):
        choose("fpga")


BROKEN = [
    (
        "import a_library_that_is_not_there",
        "cannot be imported: No module named 'a_library_that_is_not_there'",
    ),
    ("x = ", "is broken: SyntaxError"),
    ("1 / 0", "is broken: ZeroDivisionError: division by zero"),
    ("", "is broken: AttributeError"),
    ("open_backend = 7", "is broken: TypeError"),
    ("def open_backend(): raise OSError('no driver')", "is broken: OSError: no driver"),
    ("def open_backend(): return None", "is broken: AttributeError"),
    ("class open_backend: name = 'x'; devices = ()", "has no device"),
    (
        "class D: name = 'd'\nclass open_backend: name = 'x'; devices = (D, D)",
        "two devices of one name: d, d",
    ),
]


@pytest.mark.parametrize(("code", "reason"), BROKEN)
def test_a_broken_backend_is_reported_by_name(install, code, reason):
    install("strange", code)
    with pytest.raises(BackendError) as error:
        open_backend("strange")
    assert "'strange'" in error.value.message
    assert reason in error.value.message
    (surveyed,) = [one for one in survey() if one.name == "strange"]
    assert surveyed.devices == ()
    assert surveyed.reason == error.value.message
    assert surveyed.hint == error.value.hint
    with pytest.raises(BackendError, match="strange"):
        choose("strange")


def test_the_hint_is_what_to_install_or_whose_it_is(install):
    install("strange", "import a_library_that_is_not_there", "Provides-Extra: strange\n")
    install("alien", "1 / 0")
    with pytest.raises(BackendError) as error:
        open_backend("strange")
    assert error.value.hint == "pip install 'strange-backend[strange]'"
    with pytest.raises(BackendError) as error:
        open_backend("alien")
    assert "alien-backend 1.0" in error.value.hint


def test_a_backends_own_reason_and_hint_are_kept(install):
    install(
        "strange",
        "from eventchain.errors import BackendError\n"
        "def open_backend(): raise BackendError('no such card', hint='buy one')",
    )
    (surveyed,) = [one for one in survey() if one.name == "strange"]
    assert (surveyed.reason, surveyed.hint) == ("no such card", "buy one")


def test_two_packages_with_one_name_are_not_guessed_between(install):
    install("reference", "from eventchain_reference import open_backend")
    with pytest.raises(BackendError, match="two packages register a backend 'reference'"):
        open_backend("reference")


def test_survey_names_the_devices():
    (surveyed,) = [one for one in survey() if one.name == "reference"]
    assert surveyed.devices == ("hashlib, one core",)
    assert not surveyed.reason


# -- choosing devices ---------------------------------------------------------------------------------


def test_select():
    devices = [Named("NVIDIA H200 #0"), Named("NVIDIA H200 #1"), Named("AMD EPYC")]
    assert select(devices, None) == tuple(devices)
    assert select(devices, "") == tuple(devices)
    assert select(devices, "1") == (devices[1],)
    assert select(devices, "2, 0") == (devices[0], devices[2])
    assert select(devices, "h200") == tuple(devices[:2])
    assert select(devices, "#1") == (devices[1],)
    for nothing in ("3", "0,3", "radeon", "-1", "0,h200"):
        with pytest.raises(ConfigError, match="there are 0: NVIDIA H200 #0, 1: NVIDIA H200 #1, 2: AMD EPYC"):
            select(devices, nothing)


# -- the self-test ------------------------------------------------------------------------------------


def test_the_reference_passes(reference):
    self_test(reference)


def only(keep):
    """A device that answers like the reference, but only what ``keep`` lets through."""

    class Partial(Named):
        def search(self, work: Work) -> Solutions:
            right = self.device.search(work)
            kept = np.array(keep(work, right), bool)
            return Solutions(right.index[kept], right.counter[kept])

    return Partial


class Blind(Named):
    def search(self, work: Work) -> Solutions:
        return Solutions(np.empty(0, np.uint32), np.empty(0, np.uint64))


class OffByOne(Named):
    def search(self, work: Work) -> Solutions:
        right = self.device.search(work)
        return Solutions(right.index, right.counter + np.uint64(1))


class NoRolls(Named):
    def search(self, work: Work) -> Solutions:
        return self.device.search(Work(work.headers, work.start, work.count))


class Crashing(Named):
    def search(self, work: Work) -> Solutions:
        raise RuntimeError("lost the bus")


FAULTY = [
    Blind,
    OffByOne,
    NoRolls,
    Crashing,
    only(lambda work, right: right.counter - work.start[right.index] < work.count - 1),  # never the last one
    only(lambda work, right: right.counter < 2**32),  # 32-bit counters
    only(lambda work, right: right.index < 1),  # only the first header
]


@pytest.mark.parametrize("faulty", FAULTY)
def test_a_faulty_device_fails_and_is_named(reference, faulty):
    with pytest.raises(BackendError, match="the faulty one"):
        self_test(faulty("the faulty one", reference))


# -- measuring ----------------------------------------------------------------------------------------


@pytest.fixture
def slept(monkeypatch):
    """The time by which devices are measured passes while they sleep, and not while the machine is busy."""
    naps: list[float] = []
    clock = SimpleNamespace(sleep=naps.append, perf_counter=lambda: sum(naps))
    monkeypatch.setattr(backends, "time", clock)


class Steady(Named):
    """Takes a microsecond for each counter that it tries."""

    def search(self, work: Work) -> Solutions:
        found = super().search(work)
        backends.time.sleep(check(work, found).hashes * 1e-6)
        return found


@pytest.mark.parametrize("difficulty", [None, 0, 8, 30])
def test_measure_tells_the_speed(reference, slept, difficulty):
    assert measure(Steady("steady", reference), 0.05, difficulty=difficulty) == pytest.approx(1e6)


def test_all_are_measured_at_the_same_time(reference):
    """What they share counts once."""
    together = threading.Barrier(2)

    class Waiting:
        name = "one of two"

        def search(self, work: Work) -> Solutions:
            together.wait(60)
            return reference.search(work)

    assert measure_all([Waiting(), Waiting()], 1e-9) > 0


def test_measure_names_a_device_that_fails(reference):
    with pytest.raises(BackendError, match="the faulty one failed: RuntimeError: lost the bus"):
        measure(Crashing("the faulty one"), 0.05)


# -- choosing a backend -------------------------------------------------------------------------------

SLOW = """
from eventchain.mining.backends import time  # as it measures by
from eventchain_reference import ReferenceDevice
class Device(ReferenceDevice):
    def __init__(self, name): self.name = name
    def search(self, work):
        time.sleep(len(work.headers) * work.count * 1e-5)
        return super().search(work)
class open_backend:
    name = "slow"
    devices = (Device("slow left"), Device("slow right"))
"""
HALF_BLIND = SLOW.replace(
    "return super()", "if 'left' in self.name: raise OSError('no light')\n        return super()"
)


@pytest.fixture
def registered(monkeypatch, install):
    """Let only the named entry points be seen, of those that are really there."""

    def registered(*names: str) -> None:
        everything = backends.entry_points

        def entry_points(**selection: str) -> EntryPoints:
            return EntryPoints(entry for entry in everything(**selection) if entry.name in names)

        monkeypatch.setattr(backends, "entry_points", entry_points)

    return registered


def test_choose_by_name():
    choice = choose("reference")
    assert choice.name == "reference"
    assert [device.name for device in choice.devices] == ["hashlib, one core"]
    assert not choice.reasons
    with pytest.raises(ConfigError, match="hashlib"):
        choose("reference", "gpu")


def test_a_name_in_any_case(install):
    assert choose("Reference").name == "reference"
    assert choose("AUTO").name != "AUTO"
    install("Strange", SLOW)
    assert choose("strange", "right").name == "Strange"


def test_no_hint_names_this_project_on_the_package_index():
    code = """if True:
        import sys
        sys.modules |= dict.fromkeys(["pyopencl", "cupy"])  # as if they were not installed
        from eventchain.mining.backends import survey
        print({one.name: one.hint for one in survey()})
    """
    hints = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert hints["cuda"] == "pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12"
    assert hints["opencl"].startswith("pip install pyopencl; ")
    assert not any("eventchain" in hint for hint in hints.values())


def test_auto_takes_the_faster_and_says_why_not_the_others():
    choice = choose()
    assert choice.name in {"cpu", "cuda", "opencl"}  # never the reference where the cpu backend works
    for name, reason in choice.reasons.items():
        assert name
        assert reason


def test_auto_measures_instead_of_guessing(install, registered, slept):
    install("aaa", SLOW)
    install("bbb", SLOW.replace("1e-5", "1e-6"))
    registered("aaa", "bbb", "reference")
    assert choose().name == "bbb"
    assert choose(device="right").devices[0].name == "slow right"


def test_auto_falls_back_to_the_reference(install, registered):
    install("strange", "1 / 0")
    registered("strange", "reference")
    choice = choose()
    assert choice.name == "reference"
    assert "division by zero" in choice.reasons["strange"]


def test_auto_gives_every_reason_when_nothing_is_usable(install, registered):
    install("aaa", "import a_library_that_is_not_there")
    install("bbb", SLOW.replace("return super().search(work)", "raise OSError('no light')"))
    registered("aaa", "bbb")
    with pytest.raises(BackendError) as error:
        choose()
    assert "aaa: " in error.value.message
    assert "a_library_that_is_not_there" in error.value.message
    assert "slow left failed: OSError: no light" in error.value.message
    assert "slow right failed: OSError: no light" in error.value.message
    registered()
    with pytest.raises(BackendError, match="no mining backend"):
        choose()


def test_auto_lists_every_device_when_none_matches(install, registered):
    install("aaa", SLOW)
    registered("aaa", "reference")
    with pytest.raises(ConfigError, match=r"'radeon'.*slow left, 1: slow right.*hashlib"):
        choose(device="radeon")


def test_a_device_that_fails_its_self_test_is_left_out_with_its_reason(install):
    install("aaa", HALF_BLIND)
    choice = choose("aaa")
    assert [device.name for device in choice.devices] == ["slow right"]
    assert "no light" in choice.reasons["slow left"]
    (surveyed,) = [one for one in survey() if one.name == "aaa"]
    assert surveyed.devices == ("slow left", "slow right")  # --device counts both
    assert "no light" in surveyed.faults["slow left"]
    with pytest.raises(BackendError, match="no light"):
        choose("aaa", "left")


def test_an_entry_point_without_a_package_is_reported(monkeypatch):
    lost = EntryPoint("lost", "lost_and_gone:open_backend", backends.GROUP)
    monkeypatch.setattr(backends, "entry_points", lambda **_: EntryPoints([lost]))
    with pytest.raises(BackendError, match="'lost' cannot be imported"):
        open_backend("lost")
