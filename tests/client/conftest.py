"""The fake PayCenter and both kinds of client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from paycenter import PayCenter
from support.client_fakes import KEY_ID, KEY_SECRET, FakePayCenter


@pytest.fixture
def fake() -> Iterator[FakePayCenter]:
    started = FakePayCenter()
    server = started.start()
    yield started
    server.stop(0).wait()


@pytest.fixture
def pay(fake: FakePayCenter) -> Iterator[PayCenter]:
    with PayCenter(fake.target, key_id=KEY_ID, key_secret=KEY_SECRET) as client:
        yield client
