"""Sessions of operators who have logged in with a password, and the delays after failed logins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.ids import Prefix, encode

IDLE_SECONDS = 30 * 60
LIFE_SECONDS = 12 * 3600
AGENT_MAX = 200
PEER_MAX = 64


@dataclass(frozen=True, slots=True)
class LoginDelays:
    """After `free` failed logins in a row each further one doubles the delay, from `first` to `longest` seconds."""

    free: int
    first: int
    longest: int


NAME_DELAYS = LoginDelays(free=4, first=5, longest=300)
# People behind one proxy share an address, so it takes more failures, and the delay stays short.
PEER_DELAYS = LoginDelays(free=30, first=5, longest=60)
FAILURES_FORGOTTEN_SECONDS = 3600
"""Failures are forgotten if none has been added for this time."""


@dataclass(frozen=True, slots=True)
class PaySession:
    """A session, without its token. `revoke_time`: None unless it was ended before its time."""

    id: UUID
    operator_id: UUID
    peer: str
    agent: str
    create_time: datetime
    used_time: datetime
    revoke_time: datetime | None

    @property
    def number(self) -> str:
        """The id in its printed form."""
        return encode(Prefix.SESSION, self.id)
