"""What is shown once: new secrets, kept in the memory of this process between the form that made them and the page after it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping

LIFE_SECONDS = 600.0
_MOST = 500


class Once:
    """Values by a random key. They are for the session that stored them, and are gone when they are taken or after ten minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[float, str, Mapping[str, str]]] = {}

    def keep(self, owner: str, values: Mapping[str, str]) -> str:
        """The key of the values. `owner`: the csrf token of the session."""
        now = self._clock()
        for key in [key for key, (at, _, _) in self._kept.items() if now - at > LIFE_SECONDS]:
            del self._kept[key]
        while len(self._kept) >= _MOST:
            del self._kept[next(iter(self._kept))]
        key = secrets.token_urlsafe(16)
        self._kept[key] = (now, owner, dict(values))
        return key

    def take(self, owner: str, key: str) -> Mapping[str, str]:
        """The values, which are then gone; {} if there are none for this session."""
        found = self._kept.get(key)
        if found is None or found[1] != owner or self._clock() - found[0] > LIFE_SECONDS:
            return {}
        del self._kept[key]
        return found[2]
