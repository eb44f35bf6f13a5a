"""A data folder that the servers' user can reach: pytest's own temporary folders are closed to it when root runs the tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from paycenter_server.local import place


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="paycenter-test-"))
    try:
        yield path
    finally:
        place.remove_place(path)
        shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PAYCENTER_MODE",
        "PAYCENTER_DATABASE_URL",
        "PAYCENTER_REDIS_URL",
        "PAYCENTER_DATA_DIR",
        "PAYCENTER_MASTER_KEY_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
