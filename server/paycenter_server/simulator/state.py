"""All that one running simulator holds, handed to its modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import web

from paycenter_server.simulator.agenda import Agenda
from paycenter_server.simulator.bill_facts import BillShelf
from paycenter_server.simulator.clock import Clock
from paycenter_server.simulator.config import SimulatorConfig
from paycenter_server.simulator.faults import FaultPlan
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.ledger import Ledger
from paycenter_server.simulator.model import Trade
from paycenter_server.simulator.notifier import Notifier
from paycenter_server.simulator.rotation import Rotation
from paycenter_server.simulator.settings import Settings
from paycenter_server.simulator.store import Store
from paycenter_server.simulator.wire_log import WireLog

__all__ = ["STATE", "Simulator"]


@dataclass(frozen=True)
class Simulator:
    """The parts; see each module."""

    config: SimulatorConfig
    keys: SimulatorKeys
    clock: Clock
    agenda: Agenda
    store: Store
    ledger: Ledger
    faults: FaultPlan
    log: WireLog
    notifier: Notifier
    rotation: Rotation
    bills: BillShelf
    settings: Settings

    @classmethod
    def build(cls, config: SimulatorConfig, keys: SimulatorKeys) -> Simulator:
        """Put the parts together; nothing runs yet."""
        clock, store, faults, log = Clock(), Store(config.data_file), FaultPlan(), WireLog()
        agenda = Agenda(clock)
        ledger = Ledger(store, clock, agenda)
        notifier = Notifier(store, clock, agenda, faults, log)
        rotation, settings = Rotation(store), Settings(store, config.refund_notify_url)
        return cls(config, keys, clock, agenda, store, ledger, faults, log, notifier, rotation, BillShelf(clock), settings)

    def load(self) -> None:
        """Take up what the store holds."""
        for document in self.store.all("clock"):
            # A store that was filled when any offset was taken must still open.
            with contextlib.suppress(ValueError):
                self.clock.shift(self.clock.checked(float(document["offset"])))
        self.rotation.load()
        self.settings.load()
        self.ledger.load()
        self.notifier.load()

    def set_clock(self, offset: float) -> None:
        """Shift the clock, for good. ValueError if it would leave its range."""
        offset = self.clock.checked(offset)
        self.store.put("clock", "offset", {"offset": offset})
        self.clock.shift(offset)

    @contextlib.contextmanager
    def together(self, trade: Trade) -> Iterator[None]:
        """What happens to a trade inside becomes durable at once, or did not happen: neither in the store nor in memory."""
        try:
            with self.store.together():
                yield
        except BaseException:
            self.ledger.reload(trade)
            self.notifier.forget_unstored(trade)
            raise

    def reset(self) -> None:
        """Forget trades, notifications, faults, log, rotations, changed settings and the clock's offset; keys stay."""
        self.agenda.clear()
        self.store.clear()
        self.ledger.clear()
        self.notifier.clear()
        self.faults.clear()
        self.log.clear()
        self.rotation.clear()
        self.settings.clear()
        self.bills.clear()
        self.clock.shift(0.0)


STATE: web.AppKey[Simulator] = web.AppKey("simulator", Simulator)
