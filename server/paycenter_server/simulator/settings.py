"""Settings: the configuration at start, the merchant's settings in WeChat Pay's console, and which keys sign."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paycenter_server.simulator.inputs import is_secure_or_loopback, parse_web_address
from paycenter_server.simulator.store import DocumentStore

__all__ = ["ConsoleSettings", "KeyRotation", "SimulatorConfig", "check_notify_url"]

_MAX_URL_LENGTH = 255


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """The configuration of one simulator.

    keys_dir: folder made by `generate_keys`. base_url: the public address for links and QR codes; if empty, the address of the
    request. data_file: SQLite file that keeps trades across restarts; None keeps them in memory. faults_file: JSON list of fault
    rules, read at start. refund_delay_seconds: how long a WeChat Pay refund stays PROCESSING. refund_notify_url: initial value, see
    ConsoleSettings.
    """

    keys_dir: Path
    base_url: str = ""
    data_file: Path | None = None
    faults_file: Path | None = None
    refund_delay_seconds: float = 0.3
    refund_notify_url: str = ""


def check_notify_url(value: object) -> str:
    """An address for notifications, or "" for none. ValueError otherwise."""
    if value == "":
        return ""
    parts = parse_web_address(value) if isinstance(value, str) and len(value) <= _MAX_URL_LENGTH else None
    if not isinstance(value, str) or parts is None or not is_secure_or_loopback(parts):
        raise ValueError(f"it must be an https address of at most {_MAX_URL_LENGTH} characters, or http to loopback, or empty")
    return value


class ConsoleSettings:
    """The merchant's settings in WeChat Pay's console. A changed setting is stored and overrides the configuration."""

    def __init__(self, store: DocumentStore, refund_notify_url: str) -> None:
        self._store, self._initial = store, refund_notify_url
        self.refund_notify_url = refund_notify_url
        """The receiver of v2 refund notifications, for refunds without a notify_url of their own: refunds made in the console, and
        refunds over APIv3 without notify_url. Source: WeChat Pay APIv2, refund result notification."""

    def load(self) -> None:
        """Read the document store."""
        for document in self._store.all("setting"):
            self.refund_notify_url = str(document["refund_notify_url"])

    def change(self, options: object) -> None:
        """{"refund_notify_url": address or ""}. If ValueError is raised, nothing has changed."""
        if not isinstance(options, dict) or set(options) != {"refund_notify_url"}:
            raise ValueError("the only setting is refund_notify_url")
        try:
            address = check_notify_url(options["refund_notify_url"])
        except ValueError as error:
            raise ValueError(f"refund_notify_url: {error}") from error
        self._store.put("setting", "console", {"refund_notify_url": address})
        self.refund_notify_url = address

    def clear(self) -> None:
        """Restore the configuration at start."""
        self.refund_notify_url = self._initial

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"refund_notify_url": self.refund_notify_url}


class KeyRotation:
    """Which channels (`wechatpay`, `alipay`) sign with their next certificate, and whether the `migration` to WeChat Pay's public
    key is complete. After the migration no platform certificate signs. The state is stored."""

    channels = ("wechatpay", "alipay", "migration")

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._done: set[str] = set()

    def load(self) -> None:
        """Read the document store."""
        self._done = {document["channel"] for document in self._store.all("rotation") if document["done"]}

    def set(self, channel: str, *, done: bool) -> None:
        """Rotate a channel's certificate, or undo the rotation. ValueError for an unknown channel."""
        if channel not in self.channels:
            raise ValueError(f"channel must be one of {', '.join(self.channels)}")
        self._store.put("rotation", channel, {"channel": channel, "done": done})
        (self._done.add if done else self._done.discard)(channel)

    def clear(self) -> None:
        """Undo all rotations."""
        self._done.clear()

    def done(self, channel: str) -> bool:
        """Whether the rotation of this channel, or the migration, is complete."""
        return channel in self._done

    def document(self) -> dict[str, bool]:
        """As JSON."""
        return {channel: channel in self._done for channel in self.channels}
