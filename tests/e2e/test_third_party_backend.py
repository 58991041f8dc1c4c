"""A stranger's backend: a package outside the project that registers an entry point is picked by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BACKEND = '''
"""Searches like the definition, one counter after the other, with its own few lines."""
import hashlib
import numpy as np
from eventchain.contracts.backend import NONCES, Solutions
from eventchain.formats.header import target_of, with_counters

class Abacus:
    name = "Abacus, ten beads"

    def search(self, work):
        index, counter = [], []
        for i, start in enumerate(work.start.tolist()):
            target = target_of(int(work.headers["bits"][i]))
            for c in range(start, min(start + work.count, work.rolls * NONCES)):
                raw = with_counters(work.headers[i : i + 1], np.array([c], np.uint64), work.rolls).tobytes()
                digest = hashlib.sha256(hashlib.sha256(raw).digest()).digest()
                if int.from_bytes(digest, "little") <= target:
                    index.append(i)
                    counter.append(c)
                    break
        return Solutions(np.array(index, np.uint32), np.array(counter, np.uint64))

class Backend:
    name = "abacus"
    devices = [Abacus()]
'''

PROGRAM = """
import json, sys
import numpy as np
from eventchain.formats.header import HEADER, bits_for_difficulty, meets_target, merkle_root, unmined
from eventchain.mining.backends import choose, survey
from eventchain.mining.engine import Engine

before = set(sys.modules) & {"abacus", "sundial", "eventchain_reference", "eventchain_cpu"}
choice = choose("abacus")
loaded = set(sys.modules) & {"abacus", "sundial", "eventchain_reference", "eventchain_cpu"}
manifests = [b"block %d" % n for n in range(20)]
raw = b"".join(unmined(bytes(32), manifest, bits_for_difficulty(6)) for manifest in manifests)
headers = np.frombuffer(raw, HEADER)
with Engine(choice.devices) as engine:
    engine.submit(np.arange(20), headers, manifests, np.full(20, 1_700_000_000))
    found, met = [], True
    while len(found) < 20:
        mined = engine.collect(10)
        found += mined.keys.tolist()
        met = met and bool(meets_target(mined.headers).all())
print(json.dumps({
    "name": choice.name,
    "devices": [device.name for device in choice.devices],
    "before": sorted(before),
    "loaded": sorted(loaded),
    "found": sorted(found),
    "met": met,
    "survey": {one.name: [list(one.devices), one.reason, one.hint] for one in survey()},
}))
"""


def install(folder: Path, name: str, code: str, factory: str) -> None:
    """What an installer leaves: a module and the distribution's metadata beside it."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}_backend-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-backend\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(f"[eventchain.backends]\n{name} = {name}:{factory}\n")


@pytest.fixture
def said(tmp_path):
    site = tmp_path / "a stranger's site"
    site.mkdir()
    install(site, "abacus", BACKEND, "Backend")
    install(site, "sundial", "import gnomon_driver", "Backend")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_strangers_backend_is_picked_by_name_and_mines(said):
    assert said["name"] == "abacus"
    assert said["devices"] == ["Abacus, ten beads"]
    assert said["found"] == list(range(20))
    assert said["met"]
    assert said["before"] == []
    assert said["loaded"] == ["abacus"]  # and nothing else was imported for it

    # The survey shows it beside the project's own, and why a broken one cannot be used.
    devices, reason, _ = said["survey"]["abacus"]
    assert devices == ["Abacus, ten beads"]
    assert reason == ""
    assert "reference" in said["survey"]
    devices, reason, hint = said["survey"]["sundial"]
    assert devices == []
    assert reason == "backend 'sundial' cannot be imported: No module named 'gnomon_driver'"
    assert hint == "it is sundial:Backend of sundial-backend 2.1"
