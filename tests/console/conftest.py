"""The console with an operator who is logged in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.console_rig import Browser, open_console
from support.system import PayCenterSystem


@pytest.fixture
async def console(system: PayCenterSystem) -> AsyncIterator[Browser]:
    async with open_console(system) as opened:
        await opened.login()
        yield opened
