"""The state of one running simulator, and what it requires of a channel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from paycenter_server.simulator.bills import BillFiles
from paycenter_server.simulator.clock import Clock, Scheduler
from paycenter_server.simulator.faults import FaultPlan
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.notifications import Notifier
from paycenter_server.simulator.settings import ConsoleSettings, KeyRotation, SimulatorConfig
from paycenter_server.simulator.store import DocumentStore
from paycenter_server.simulator.trades import Refund, Trade, TradeStore
from paycenter_server.simulator.wire_log import WireLog

__all__ = ["STATE", "Channel", "Simulator"]


class Channel(Protocol):
    """The channel-specific part of an action on a trade."""

    refund_delay_seconds: float
    """How long a refund made in the console stays PROCESSING."""

    def shown_state(self, trade: Trade) -> str:
        """The state that the channel's own query returns."""

    def expire(self, trade: Trade) -> None:
        """Close an unpaid trade whose time to pay is over, if the channel does so."""

    def notify_payment(self, trade: Trade, *, delay: float = 0.0, copies: int = 1, wrong_signatures: int = 0) -> None:
        """Queue the notification of the payment. copies: sends of it. wrong_signatures: the first sends with a wrong signature."""

    def notify_refund(self, trade: Trade, refund: Refund) -> None:
        """Queue the notification of a refund."""

    def return_url(self, trade: Trade) -> str:
        """Where the browser goes after the payment; "" if nowhere."""


@dataclass(frozen=True)
class Simulator:
    """The components. `channels` has one entry per protocol of Trade.protocol."""

    config: SimulatorConfig
    keys: SimulatorKeys
    clock: Clock
    scheduler: Scheduler
    store: DocumentStore
    trades: TradeStore
    faults: FaultPlan
    log: WireLog
    notifier: Notifier
    rotation: KeyRotation
    bills: BillFiles
    settings: ConsoleSettings
    channels: dict[str, Channel] = field(default_factory=dict)

    @classmethod
    def build(cls, config: SimulatorConfig, keys: SimulatorKeys) -> Simulator:
        """Create the components. Nothing runs yet."""
        clock, store, faults, log = Clock(), DocumentStore(config.data_file), FaultPlan(), WireLog()
        scheduler = Scheduler(clock)
        trades = TradeStore(store, clock, scheduler)
        notifier = Notifier(store, clock, scheduler, faults, log)
        rotation, settings = KeyRotation(store), ConsoleSettings(store, config.refund_notify_url)
        simulator = cls(config, keys, clock, scheduler, store, trades, faults, log, notifier, rotation, BillFiles(clock), settings)
        trades.refund_finished = lambda trade, refund: simulator.channel(trade).notify_refund(trade, refund)
        return simulator

    def channel(self, trade: Trade) -> Channel:
        """The channel of a trade."""
        return self.channels[trade.protocol]

    def load(self) -> None:
        """Read the document store and continue what was pending."""
        for document in self.store.all("clock"):
            # An older version stored offsets without a limit.
            with contextlib.suppress(ValueError):
                self.clock.shift(self.clock.checked(float(document["offset"])))
        self.rotation.load()
        self.keys.merchant.load(self.store)
        self.settings.load()
        self.trades.load()
        self.notifier.load()

    def set_clock(self, offset: float) -> None:
        """Set and store the offset of the clock. ValueError if the time would leave its range."""
        offset = self.clock.checked(offset)
        self.store.put("clock", "offset", {"offset": offset})
        self.clock.shift(offset)

    @contextlib.contextmanager
    def transaction(self, trade: Trade) -> Iterator[None]:
        """Commit all changes of the block together. If it fails, the trade and its notifications are reset in memory too."""
        try:
            with self.store.transaction():
                yield
        except BaseException:
            self.trades.reload(trade)
            self.notifier.forget_unstored(trade)
            raise

    def reset(self) -> None:
        """Remove trades, notifications, faults, log, rotations, settings and the clock's offset. The keys of the folder stay."""
        self.scheduler.clear()
        self.store.clear()
        self.trades.clear()
        self.notifier.clear()
        self.faults.clear()
        self.log.clear()
        self.rotation.clear()
        self.keys.merchant.clear()
        self.settings.clear()
        self.bills.clear()
        self.clock.shift(0.0)


STATE: web.AppKey[Simulator] = web.AppKey("simulator", Simulator)
