"""What several folders of tests share."""

from __future__ import annotations

import pytest
from chains import Chain, grown_chain


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One chain with everything in it. Copy it before you change anything."""
    return grown_chain(tmp_path_factory.mktemp("grown"))
