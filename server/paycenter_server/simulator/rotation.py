"""Certificates that are replaced while merchants run: from some moment on, the next ones sign, or WeChat's public key alone."""

from __future__ import annotations

from paycenter_server.simulator.store import Store

__all__ = ["Rotation"]


class Rotation:
    """Which channels (`wechatpay`, `alipay`) sign with their next certificate, and whether the `migration` to WeChat's public key
    is over, after which nothing is signed with a platform certificate; survives a restart."""

    channels = ("wechatpay", "alipay", "migration")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._done: set[str] = set()

    def load(self) -> None:
        """Read the store."""
        self._done = {document["channel"] for document in self._store.all("rotation") if document["done"]}

    def turn(self, channel: str, *, done: bool) -> None:
        """Rotate a channel's certificate, or go back. ValueError for another channel."""
        if channel not in self.channels:
            raise ValueError(f"channel must be one of {', '.join(self.channels)}")
        self._store.put("rotation", channel, {"channel": channel, "done": done})
        (self._done.add if done else self._done.discard)(channel)

    def clear(self) -> None:
        """The first certificates sign again."""
        self._done.clear()

    def done(self, channel: str) -> bool:
        """Whether the next certificate signs, or the migration is over."""
        return channel in self._done

    def document(self) -> dict[str, bool]:
        """As JSON."""
        return {channel: channel in self._done for channel in self.channels}
