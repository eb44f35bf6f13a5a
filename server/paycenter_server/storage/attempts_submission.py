"""The two statements of a submit: the intent before the channel is called, and its answer. Each stores what several submits want.

Each has two forms. The shared one waits for no row: what another transaction has locked is left out, so that it does not hold up
the others, nor wait for them in a circle. The other one waits for what it needs, and is for one submit that was left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

from paycenter_server.domain.attempts import AT_CREATE, PayAttempt
from paycenter_server.domain.events import Cause
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import ATTEMPT, ORDER, AttemptEvent, OrderEvent, created, sources, target
from paycenter_server.storage.accounts import holding
from paycenter_server.storage.attempts import ATTEMPTS, attempt_event
from paycenter_server.storage.cases import held
from paycenter_server.storage.database import WriteConnection
from paycenter_server.storage.events import cause_values, listed, named, noting

_SKIP = " SKIP LOCKED"
# What a new attempt has besides is the default of its column, or a constant: each argument costs the server time.
_GIVEN = tuple(name for name in ATTEMPTS.columns if name not in {*AT_CREATE, "state", "update_time"})
_CONSTANT = {"state": named(created(ATTEMPT, AttemptEvent.CREATE)), "update_time": "g.create_time", "display_mode": "''",
             "display_content": "''"}  # fmt: skip
_KINDS = dict(zip(ATTEMPTS.columns, ATTEMPTS.array_types, strict=True))
_ARRAYS = ", ".join(f"${number}::{_KINDS[name]}" for number, name in enumerate(_GIVEN, 1))
_VERSIONS = len(_GIVEN) + 1
_MADE = ", ".join((*_GIVEN, *_CONSTANT))


def _array(name: str) -> str:
    return f"${_GIVEN.index(name) + 1}::uuid[]"


# The accounts are locked before the orders, as refunds do, and nothing is changed without them. After a wait for the lock of an
# order its own columns are compared as they are then, but the case is looked for as it was before: what opens one under that lock
# counts up submit_version.
def _inserting(skip: str) -> str:
    return f"""
WITH account AS ({holding(f"ANY({_array('account_id')})", skip)}),
given AS MATERIALIZED (SELECT g.* FROM unnest({_ARRAYS}, ${_VERSIONS}::bigint[]) g({", ".join(_GIVEN)}, submit_version)
  JOIN account ON account.id = g.account_id),
free AS (SELECT t.id, t.amount, t.expire_time, t.submit_version FROM pay_order t
  WHERE t.id = ANY(ARRAY(SELECT order_id FROM given)) AND t.state = ANY({listed(sources(ORDER, OrderEvent.PAID))})
    AND ({held("t.id")}) IS NULL FOR NO KEY UPDATE OF t{skip}),
fitting AS MATERIALIZED (SELECT g.* FROM given g JOIN free t ON t.id = g.order_id
  WHERE t.amount = g.amount AND t.expire_time > g.create_time AND t.submit_version = g.submit_version),
counted AS (UPDATE pay_order t SET submit_version = submit_version + 1 WHERE t.id = ANY(ARRAY(SELECT order_id FROM fitting))),
made AS (INSERT INTO pay_attempt ({_MADE}) SELECT {", ".join((*(f"g.{name}" for name in _GIVEN), *_CONSTANT.values()))}
  FROM fitting g RETURNING id, order_id, state, amount),
noted AS ({noting("made", _VERSIONS + 1, attempt_event(AttemptEvent.CREATE, before="NULL"), keys=_array("id"))})
SELECT id FROM made
"""


_INSERT, _INSERT_SHARED = _inserting(""), _inserting(_SKIP)
_VALUES = attrgetter(*_GIVEN)


@dataclass(frozen=True, slots=True)
class Intent:
    """An attempt to store before the channel is called. `submit_version`: of the order, as it was read with its attempts."""

    attempt: PayAttempt
    submit_version: int
    cause: Cause


async def insert_attempts(connection: WriteConnection, intents: Sequence[Intent]) -> list[bool]:
    """Insert intents by one statement that waits for no order: for each whether it is stored.

    Nothing is changed for one whose order cannot be paid (any more), has another amount or `submit_version`, or money that is held,
    whose account is disabled, whose order or account another transaction has locked, or which is the second one of its order.
    """
    return await _insert(connection, _INSERT_SHARED, intents)


async def insert_attempt(connection: WriteConnection, attempt: PayAttempt, order: PayOrder, cause: Cause) -> bool:
    """Insert one intent; it waits for its account and its order. `order`: as it was read together with its attempts.

    False, with nothing changed, if the order cannot be paid (any more), has another amount or `submit_version`, or money that is
    held, or if the account is disabled.
    """
    return (await _insert(connection, _INSERT, [Intent(attempt, order.submit_version, cause)]))[0]


async def _insert(connection: WriteConnection, statement: str, intents: Sequence[Intent]) -> list[bool]:
    chosen = _first_of_each([intent.attempt.order_id for intent in intents])
    rows = [(*_arguments(one.attempt), one.submit_version, *cause_values(one.cause)) for one in map(intents.__getitem__, chosen)]
    made = {row["id"] for row in await connection.fetch(statement, *map(list, zip(*rows, strict=True)))}
    return [intent.attempt.id in made for intent in intents]


def _arguments(attempt: PayAttempt) -> tuple[Any, ...]:
    values = list(_VALUES(attempt))
    values[_EXTRAS] = dict(values[_EXTRAS])
    return tuple(values)


_EXTRAS = _GIVEN.index("channel_extras")


def _first_of_each(keys: Sequence[Hashable]) -> list[int]:
    """The places of the first of each key. The statement would do the others twice."""
    first: dict[Hashable, int] = {}
    for at, key in enumerate(keys):
        first.setdefault(key, at)
    return list(first.values())


def _answering(skip: str) -> str:
    states = listed(sources(ATTEMPT, AttemptEvent.ANSWERED))
    return f"""
WITH old AS (SELECT id, state FROM pay_attempt WHERE id = ANY($1::uuid[]) AND state = ANY({states}) FOR NO KEY UPDATE{skip}),
changed AS (UPDATE pay_attempt t SET state = {named(target(ATTEMPT, AttemptEvent.ANSWERED))}, display_mode = g.mode,
    display_content = g.content, update_time = g.now, next_check_time = g.next_check, channel_error_code = NULL,
    channel_error_message = NULL
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[]) g(id, mode, content, now, next_check)
    JOIN old ON old.id = g.id
  WHERE t.id = g.id AND t.id = ANY(ARRAY(SELECT id FROM old)) RETURNING t.id, t.order_id, t.state, t.amount, old.state AS before),
noted AS ({noting("changed", 6, attempt_event(AttemptEvent.ANSWERED), keys="$1::uuid[]")})
SELECT changed.id, o.state, o.amount, o.version, o.submit_version, o.update_time
FROM changed JOIN pay_order o ON o.id = changed.order_id AND o.id = ANY(ARRAY(SELECT order_id FROM changed))
"""


_ANSWERED, _ANSWERED_SHARED = _answering(""), _answering(_SKIP)
_SEEN = ("state", "amount", "version", "submit_version", "update_time")
_seen_of, _seen_in = attrgetter(*_SEEN), itemgetter(*_SEEN)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the channel has answered for an attempt: it is payable, with this display content."""

    attempt_id: UUID
    mode: str
    content: str
    now: datetime
    next_check: datetime
    cause: Cause


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer that is stored. `of_order`: some columns of the order at that moment."""

    of_order: tuple[Any, ...]

    def is_order(self, order: PayOrder, *, submits: int) -> bool:
        """Whether the order was as it is here, but for so many submits: every other change of it changes one of the columns."""
        state, amount, version, submit_version, update_time = _seen_of(order)
        return self.of_order == (state.value, amount, version, submit_version + submits, update_time)


async def store_answers(connection: WriteConnection, answers: Sequence[Answer]) -> list[Stored | None]:
    """Store answers by one statement that waits for no attempt. None, with nothing changed, for one whose state does not allow it
    any more, that another transaction has locked, or that is the second one of its attempt."""
    return await _answer(connection, _ANSWERED_SHARED, answers)


async def answered(
    connection: WriteConnection, attempt_id: UUID, mode: str, content: str, now: datetime, next_check: datetime, cause: Cause
) -> bool:
    """The channel made it payable: store the display content. False if its state does not allow it any more."""
    (stored,) = await _answer(connection, _ANSWERED, [Answer(attempt_id, mode, content, now, next_check, cause)])
    return stored is not None


async def _answer(connection: WriteConnection, statement: str, answers: Sequence[Answer]) -> list[Stored | None]:
    chosen = _first_of_each([answer.attempt_id for answer in answers])
    rows = [
        (one.attempt_id, one.mode, one.content, one.now, one.next_check, *cause_values(one.cause))
        for one in map(answers.__getitem__, chosen)
    ]
    found = await connection.fetch(statement, *map(list, zip(*rows, strict=True)))
    stored = {row["id"]: Stored(_seen_in(row)) for row in found}
    return [stored.pop(answer.attempt_id, None) for answer in answers]
