"""What the service's tests share."""

from __future__ import annotations

import pytest
from postgres import Server


@pytest.fixture
def postgresql(postgres: Server) -> str:
    """The URL of an empty database."""
    return postgres.new_database()
