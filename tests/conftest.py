"""What several folders of tests share."""

from __future__ import annotations

import pytest
from chains import Chain, grown_chain
from hypothesis import settings

settings.register_profile("eventchain", deadline=None)  # no test fails for a busy machine
settings.load_profile("eventchain")


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One chain with everything in it. Copy it before you change anything."""
    return grown_chain(tmp_path_factory.mktemp("grown"))
