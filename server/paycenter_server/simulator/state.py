"""All that one running simulator holds, handed to its modules."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from paycenter_server.simulator.agenda import Agenda
from paycenter_server.simulator.bill_facts import BillShelf
from paycenter_server.simulator.clock import Clock
from paycenter_server.simulator.config import SimulatorConfig
from paycenter_server.simulator.faults import FaultPlan
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.ledger import Ledger
from paycenter_server.simulator.notifier import Notifier
from paycenter_server.simulator.rotation import Rotation
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

    @classmethod
    def build(cls, config: SimulatorConfig, keys: SimulatorKeys) -> Simulator:
        """Put the parts together; nothing runs yet."""
        clock, store, faults, log = Clock(), Store(config.data_file), FaultPlan(), WireLog()
        agenda = Agenda(clock)
        ledger = Ledger(store, clock, agenda)
        notifier = Notifier(store, clock, agenda, faults, log)
        return cls(config, keys, clock, agenda, store, ledger, faults, log, notifier, Rotation(store), BillShelf(clock))

    def load(self) -> None:
        """Take up what the store holds."""
        for document in self.store.all("clock"):
            self.clock.shift(float(document["offset"]))
        self.rotation.load()
        self.ledger.load()
        self.notifier.load()

    def set_clock(self, offset: float) -> None:
        """Shift the clock, for good."""
        self.store.put("clock", "offset", {"offset": offset})
        self.clock.shift(offset)

    def reset(self) -> None:
        """Forget trades, notifications, faults, log and the clock's offset; keys stay."""
        self.agenda.clear()
        self.store.clear()
        self.ledger.clear()
        self.notifier.clear()
        self.faults.clear()
        self.log.clear()
        self.rotation.clear()
        self.bills.clear()
        self.clock.shift(0.0)


STATE: web.AppKey[Simulator] = web.AppKey("simulator", Simulator)
