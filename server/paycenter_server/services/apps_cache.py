"""Apps that were read within the last second, so that a call does not read its app each time."""

from __future__ import annotations

import asyncio

from paycenter_server.domain.apps import PayApp
from paycenter_server.services.context import Context
from paycenter_server.storage import apps as app_rows

_FRESH_SECONDS = 1.0
_MAX_CACHED = 10_000


class AppCache:
    """Apps by their keys. A change is seen at once by the process that makes it, and within a second by the others."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[str, tuple[float, PayApp]] = {}
        self._reading: dict[str, asyncio.Task[PayApp | None]] = {}
        self._changes = 0

    async def get(self, app_key: str) -> PayApp | None:
        """The app as it was at most a second ago; None if there is none. What does not exist is read each time."""
        now = asyncio.get_running_loop().time()
        known = self._known.get(app_key)
        if known is not None and now - known[0] < _FRESH_SECONDS:
            return known[1]
        reading = self._reading.get(app_key)
        if reading is None:
            reading = self._reading[app_key] = asyncio.ensure_future(self._read(app_key))
            reading.add_done_callback(lambda done: self._reading.pop(app_key, None) if self._reading.get(app_key) is done else None)
        return await asyncio.shield(reading)

    async def _read(self, app_key: str) -> PayApp | None:
        """Read the app once for all calls that wait for it."""
        now, changes = asyncio.get_running_loop().time(), self._changes
        async with self._context.database.connection() as connection:
            app = await app_rows.get_app(connection, app_key)
        if app is not None and changes == self._changes:  # what was read before a change is not kept
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[app_key] = (now, app)
        return app

    def forget(self, app_key: str) -> None:
        """Read the app again at its next use in this process, because it has changed."""
        self._changes += 1
        self._known.pop(app_key, None)
        self._reading.pop(app_key, None)
