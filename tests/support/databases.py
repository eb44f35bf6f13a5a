"""Databases of their own."""

from __future__ import annotations

import asyncio
from typing import Any


async def in_thread(work: Any, *arguments: Any) -> Any:
    """Alembic runs an event loop of its own."""
    return await asyncio.to_thread(work, *arguments)
