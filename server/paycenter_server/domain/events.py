"""The event ledger: what happened to an order and to everything that belongs to it, by whom, and on which evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from paycenter_server.domain.values import value

EVIDENCE_MAX = 16_384
"""The number of characters that are kept of a message of a channel."""


class Subject(StrEnum):
    """The kind of object to which an event happened."""

    ORDER = "ORDER"
    ATTEMPT = "ATTEMPT"
    REFUND = "REFUND"
    CASE = "CASE"
    NOTIFICATION = "NOTIFICATION"


class ActorKind(StrEnum):
    """Who caused an event. CALLBACK: a message of a channel. SYSTEM: a program that calls the services without a caller."""

    APP = "APP"
    OPERATOR = "OPERATOR"
    CALLBACK = "CALLBACK"
    JOB = "JOB"
    SYSTEM = "SYSTEM"


@value
class Actor:
    """`name`: the key id of a credential, the number of the channel whose callback address was called, or the name of a job."""

    kind: ActorKind
    name: str = ""


@value
class Cause:
    """Who causes a change, and the evidence: a channel call or a callback, without secrets."""

    actor: Actor
    evidence: Mapping[str, Any] | None = None


# Events that change no state, beside the events of the state tables.
QUERIED = "queried"
CLOSE_REQUESTED = "close requested"
CANCEL_BEGUN = "cancel begun"
CANCEL_DECIDED = "cancel decided"
CALLBACK_RECEIVED = "callback received"
CALLBACK_REPEATED = "callback repeated"
CALLBACK_REFUSED = "callback refused"
SENT_NOW = "sent now"
CASE_ASSIGNED = "assigned"
CASE_COMMENTED = "commented"
CASE_PROPOSED = "proposed"
CASE_RETRIED = "retried"
CASE_STALE = "stale"


@dataclass(frozen=True, slots=True)
class PayEvent:
    """A row of the event ledger. `paid_change`, `reserved_change` and `refunded_change` are signed minor units: the sums over the
    events of an order are the three amounts of the order."""

    id: int
    order_id: UUID | None
    subject: Subject
    subject_id: UUID
    event: str
    from_state: str | None
    to_state: str | None
    amount: int | None
    paid_change: int
    reserved_change: int
    refunded_change: int
    actor_kind: ActorKind
    actor: str
    evidence: Mapping[str, Any] | None
    create_time: datetime


_SYSTEM = Actor(ActorKind.SYSTEM)
_actor: ContextVar[Actor | None] = ContextVar("paycenter_actor", default=None)


def current_actor() -> Actor:
    """The actor of this task."""
    return _actor.get() or _SYSTEM


def set_actor(actor: Actor) -> None:
    """Name the actor of this task until it ends."""
    _actor.set(actor)


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Name the actor of what this task, and the tasks that it starts, do."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)
