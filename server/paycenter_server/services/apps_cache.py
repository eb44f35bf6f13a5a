"""Apps that were read within the last second."""

from __future__ import annotations

from paycenter_server.domain.apps import PayApp
from paycenter_server.services.context import Context
from paycenter_server.services.kept import Kept
from paycenter_server.storage import apps as app_rows


class AppCache(Kept[str, PayApp]):
    """Apps by their keys."""

    def __init__(self, context: Context) -> None:
        async def read(app_key: str) -> PayApp | None:
            async with context.database.connection() as connection:
                return await app_rows.get_app(connection, app_key)

        super().__init__(context, read)
