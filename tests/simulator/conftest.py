"""A running simulator, a merchant's receiver of notifications, and small clients of both channels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from paycenter_server.simulator.keys import SimulatorKeys, generate_keys

from .merchant import SimulatorSystem


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SimulatorKeys:
    """Keys, generated once per session."""
    return generate_keys(tmp_path_factory.mktemp("keys"))


@pytest_asyncio.fixture
async def system(keys: SimulatorKeys, tmp_path: Path) -> AsyncIterator[SimulatorSystem]:
    """A simulator with a data file, and its merchant."""
    started = await SimulatorSystem.start(keys, tmp_path / "trades.sqlite3")
    yield started
    await started.stop()
