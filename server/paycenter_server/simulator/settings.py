"""What merchants configure in the channels' consoles, as far as it shows on the wire."""

from __future__ import annotations

from typing import Any

from paycenter_server.simulator.addresses import calls_back_safely, web_address
from paycenter_server.simulator.store import Store

__all__ = ["Settings", "notify_address"]

_LONGEST = 255


def notify_address(value: object) -> str:
    """An address for notifications, or "" for none. ValueError otherwise."""
    if value == "":
        return ""
    parts = web_address(value) if isinstance(value, str) and len(value) <= _LONGEST else None
    if not isinstance(value, str) or parts is None or not calls_back_safely(parts):
        raise ValueError(f"it must be an https address of at most {_LONGEST} characters, or http to loopback, or empty")
    return value


class Settings:
    """Survive a restart; a setting that was changed while running outlives what the program was started with."""

    def __init__(self, store: Store, refund_notify_url: str) -> None:
        self._store, self._initial = store, refund_notify_url
        self.refund_notify_url = refund_notify_url
        """Where WeChat tells, in v2 XML, of refunds that name no address of their own: made in the console, or over v3 without
        notify_url (channel sheet 2.7, "Trap")."""

    def load(self) -> None:
        """Read the store."""
        for document in self._store.all("setting"):
            self.refund_notify_url = str(document["refund_notify_url"])

    def change(self, options: object) -> None:
        """{"refund_notify_url": address or ""}. ValueError says what is wrong, and nothing has changed then."""
        if not isinstance(options, dict) or set(options) != {"refund_notify_url"}:
            raise ValueError("give refund_notify_url, and nothing else")
        try:
            address = notify_address(options["refund_notify_url"])
        except ValueError as error:
            raise ValueError(f"refund_notify_url: {error}") from error
        self._store.put("setting", "console", {"refund_notify_url": address})
        self.refund_notify_url = address

    def clear(self) -> None:
        """As started."""
        self.refund_notify_url = self._initial

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"refund_notify_url": self.refund_notify_url}
