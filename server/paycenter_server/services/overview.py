"""The overview: what happened today and in 30 days, what needs a person, and how far the jobs are behind.

Sums of a day are kept in the memory of this process: those of today for 50 times as long as they took, so that they cost at most a
fiftieth of a connection; those of past days for an hour, because late payments and refunds change past days too. A call computes
missing days, the newest first, as long as its time allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone

from paycenter_server.channels.crypto import CryptoError, load_certificates
from paycenter_server.channels.specs import ChannelSpec
from paycenter_server.domain.accounts import PayAccount
from paycenter_server.domain.states import AttemptState, OrderState, RefundState
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import overview as overview_rows
from paycenter_server.storage.overview import FailingEndpoint, Group, OpenCases, Queue, Unsettled

DAYS = 30
BUSINESS_ZONE = timezone(timedelta(hours=8))
"""Days begin at midnight in China, as in the channels' bills."""
_TODAY_FACTOR, _PAST_SECONDS = 50.0, 3600.0
BUDGET_SECONDS = 1.5
SOON = timedelta(days=30)
_MOST_ACCOUNTS = 200


@dataclass(frozen=True, slots=True)
class Tries:
    """Attempts of a channel code. Those that are still open are not decided."""

    paid: int = 0
    decided: int = 0

    def __add__(self, other: Tries) -> Tries:
        return Tries(self.paid + other.paid, self.decided + other.decided)


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums of some days. Amounts in minor units. `refunds`, `refunded`: those that succeeded, by the time of their creation."""

    orders: int = 0
    paid: int = 0
    amount: int = 0
    refunds: int = 0
    refunded: int = 0
    failed_refunds: int = 0
    channels: Mapping[str, int] = field(default_factory=dict)
    tries: Mapping[str, Tries] = field(default_factory=dict)

    def __add__(self, other: Figures) -> Figures:
        codes, tried = {*self.channels, *other.channels}, {*self.tries, *other.tries}
        return Figures(
            self.orders + other.orders, self.paid + other.paid, self.amount + other.amount, self.refunds + other.refunds,
            self.refunded + other.refunded, self.failed_refunds + other.failed_refunds,
            {code: self.channels.get(code, 0) + other.channels.get(code, 0) for code in codes},
            {code: self.tries.get(code, Tries()) + other.tries.get(code, Tries()) for code in tried},
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Day:
    """A day and its figures; None if they are not computed yet."""

    day: date
    figures: Figures | None


@dataclass(frozen=True, slots=True)
class Ending:
    """A certificate, or the time in which earlier keys are valid, that ends soon or has ended."""

    account: PayAccount
    what: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Attention:
    """What needs a person."""

    attempts: Unsettled
    refunds: Unsettled
    failing: Sequence[FailingEndpoint]
    cases: OpenCases
    ending: Sequence[Ending]

    @property
    def more_failing(self) -> bool:
        """Whether there may be more notifications that are not received than those of `failing`."""
        return any(one.more for one in self.failing) or len(self.failing) >= overview_rows.FAILING_ENDPOINTS


class Overview:
    """Reads figures, for operators."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity
        # The figures of each day, and until when they are used, by the clock of the event loop.
        self._days: dict[date, tuple[float, Figures]] = {}
        self._lock = asyncio.Lock()

    def today(self) -> date:
        """The present day."""
        return self._context.now().astimezone(BUSINESS_ZONE).date()

    async def days(self, caller: Caller, budget: float = BUDGET_SECONDS) -> list[Day]:
        """The last DAYS days, the oldest first. Days that were not computed within `budget` seconds have no figures yet."""
        self._identity.require_operator(caller)
        today = self.today()
        wanted = [today - timedelta(days=back) for back in range(DAYS)]
        end = asyncio.get_running_loop().time() + budget
        async with self._lock:
            for day in wanted:
                if not self._is_fresh(day):
                    if asyncio.get_running_loop().time() > end:
                        break
                    await self._compute(day, is_past=day != today)
        for day in [day for day in self._days if day not in wanted]:
            del self._days[day]
        return [Day(day, self._days[day][1] if day in self._days else None) for day in reversed(wanted)]

    def _is_fresh(self, day: date) -> bool:
        known = self._days.get(day)
        return known is not None and asyncio.get_running_loop().time() < known[0]

    async def _compute(self, day: date, *, is_past: bool) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        start = datetime(day.year, day.month, day.day, tzinfo=BUSINESS_ZONE).astimezone(UTC)
        async with self._context.database.connection() as connection:
            orders, attempts, refunds = await overview_rows.sum_day(connection, start, start + timedelta(days=1))
        seconds = _PAST_SECONDS if is_past else _TODAY_FACTOR * (loop.time() - begun)
        self._days[day] = (loop.time() + seconds, _figures(orders, attempts, refunds))

    async def attention(self, caller: Caller) -> Attention:
        """What needs a person now."""
        self._identity.require_operator(caller)
        now = self._context.now()
        async with self._context.database.connection() as connection:
            attempts, refunds = await overview_rows.unsettled(connection, now - timedelta(hours=1), now - timedelta(days=1))
            failing = await overview_rows.failing_endpoints(connection)
            cases = await overview_rows.open_cases(connection)
            accounts = await account_rows.list_accounts(connection, limit=_MOST_ACCOUNTS, before=None, family="")
        soon = [ending for account in accounts for ending in self._endings(account, now) if ending.at < now + SOON]
        return Attention(attempts, refunds, failing, cases, sorted(soon, key=lambda ending: ending.at))

    def _endings(self, account: PayAccount, now: datetime) -> list[Ending]:
        return endings(account, self._context.registry.of_family(account.family), now)

    async def queues(self, caller: Caller) -> list[Queue]:
        """What each job has before it."""
        self._identity.require_operator(caller)
        async with self._context.database.connection() as connection:
            return await overview_rows.queues(connection, self._context.now())


def endings(account: PayAccount, spec: ChannelSpec | None, now: datetime) -> list[Ending]:
    """When the certificates of an account end, and its earlier keys. Unreadable certificates have no end.

    `spec`: a channel of its family; None if none is installed, so that it is not known which fields are certificates.
    """
    found = []
    for name in [item.name for item in spec.config_fields if item.certificates] if spec else []:
        value = account.config.get(name)
        if isinstance(value, str) and value:
            try:
                ends = [certificate.not_valid_after_utc for certificate in load_certificates(value)]
            except (CryptoError, ValueError):
                continue
            # Of several certificates the last one counts: the others are those that it replaces.
            found += [Ending(account, name, max(ends))] if ends else []
    untils = [datetime.fromisoformat(entry["until"]) for entry in account.valid_earlier_keys(now)]
    return found + ([Ending(account, "earlier_keys", max(untils))] if untils else [])


def _figures(orders: Sequence[Group], attempts: Sequence[Group], refunds: Sequence[Group]) -> Figures:
    paid_states = (OrderState.SUCCESS, OrderState.REFUND)
    paid = [group for group in orders if group.state in paid_states]
    done = [group for group in refunds if group.state == RefundState.SUCCESS]
    amounts: dict[str, int] = {}
    tries: dict[str, Tries] = {}
    for group in paid:
        amounts[group.channel_code] = amounts.get(group.channel_code, 0) + group.amount
    for group in attempts:
        if group.state in (AttemptState.SUCCESS, AttemptState.CLOSED):
            more = Tries(group.rows if group.state == AttemptState.SUCCESS else 0, group.rows)
            tries[group.channel_code] = tries.get(group.channel_code, Tries()) + more
    return Figures(
        orders=sum(group.rows for group in orders),
        paid=sum(group.rows for group in paid),
        amount=sum(group.amount for group in paid),
        refunds=sum(group.rows for group in done),
        refunded=sum(group.amount for group in done),
        failed_refunds=sum(group.rows for group in refunds if group.state == RefundState.FAILURE),
        channels=amounts,
        tries=tries,
    )
