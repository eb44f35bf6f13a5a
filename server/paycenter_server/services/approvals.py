"""Acts that need a second operator: storing them, and their place in the transaction that carries them out.

A use case that finds that its act needs a second operator rolls its transaction back and calls `request`. The approval calls the
use case again, with `Approved`: the transaction of the act locks the approval first and moves it, so the act is carried out once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from paycenter_server.domain.approvals import ApprovalKind, PayApproval, new_approval
from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.states import ApprovalEvent, ApprovalState
from paycenter_server.services import approvals_errors as errors
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.storage import approvals as approval_rows
from paycenter_server.storage.database import Transaction

_PURPOSE = "approval content"
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """An act that waits.

    `request`: the values of the call, as JSON has them; those of its `config` with a name in `secrets` are sealed. `shown`: what
    would change, without secrets.
    """

    kind: ApprovalKind
    about: str
    request: Mapping[str, Any] = field(repr=False)
    shown: Mapping[str, Any]
    app: PayApp | None = None
    secrets: Collection[str] = ()
    amount: int | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    """The approval of an act, by its second operator, for the use case that carries it out."""

    approval: PayApproval
    by: Caller
    reason: str

    @property
    def audited(self) -> dict[str, str]:
        """What the audit row of the act has of it."""
        return {"approval": self.approval.number, "requested_by": self.approval.requested_by}


def _place(approval_id: object, name: str) -> str:
    return f"pay_approval:{approval_id}:{name}"


class NeedsApprovalError(Exception):
    """Ends the transaction of an act that needs a second operator. `after`: what would be audited. `found`: what the act has found,
    which must be the same when it is carried out; the approval stores it."""

    def __init__(self, after: Mapping[str, Any], found: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.after, self.found = after, found


class Approvals:
    """Stores acts that wait, and moves them in the transactions of the acts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def request(self, caller: Caller, wanted: Wanted) -> PayCenterError:
        """Store the act, unless the same one waits already. The error that tells the caller so."""
        message = json.dumps([wanted.kind.value, wanted.about, wanted.request], sort_keys=True)
        content = self._context.box.sign(message.encode(), _PURPOSE)
        for _ in range(_TRIES):
            now = self._context.now()
            key = self._context.new_key(now)
            request = dict(wanted.request)
            if config := request.get("config"):
                request["config"] = {
                    name: {"sealed": self._context.box.seal(value, _place(key, name))} if name in wanted.secrets else value
                    for name, value in config.items()
                }
            approval = new_approval(
                key, now, wanted.kind, app_id=wanted.app.id if wanted.app else None,
                app_key=wanted.app.app_key if wanted.app else None, about=wanted.about, request=request, content=content,
                shown=wanted.shown, amount=wanted.amount, currency=wanted.currency, requested_by=caller.person,
            )  # fmt: skip
            async with self._context.database.transaction() as transaction:
                await approval_rows.expire(transaction, now)
                if await approval_rows.insert_approval(transaction, approval):
                    act = Act(approval.method, wanted.about, approval.app_key or "")
                    await record(
                        transaction, caller, act, None, {"approval": approval.number, "state": "PENDING", **_after(wanted)}
                    )
                    return errors.approval_needed(approval)
                waiting = await approval_rows.get_waiting(transaction, content)
            if waiting is not None:
                return errors.approval_needed(waiting)
        raise errors.approval_not_found()  # it was decided each time between the two statements

    def opened(self, approval: PayApproval) -> dict[str, Any]:
        """The values of the call in clear text, for use inside the process only."""
        request = dict(approval.request)
        if config := request.get("config"):
            request["config"] = {
                name: self._context.box.open(value["sealed"], _place(approval.id, name)) if isinstance(value, dict) else value
                for name, value in config.items()
            }
        return request

    async def take(self, transaction: Transaction, approved: Approved) -> None:
        """Lock the approval and move it to APPROVED: the first statement of the act's transaction. APPROVAL_DECIDED if it does not
        wait any more, APPROVAL_OWN for who requested it."""
        now = self._context.now()
        current = await approval_rows.lock_approval(transaction, approved.approval.id)
        if current is None:
            raise errors.approval_not_found()
        if current.state is not ApprovalState.PENDING or current.expire_time <= now:
            raise errors.approval_decided(current)
        if current.requested_by == approved.by.person:
            raise errors.approval_own(current)
        await approval_rows.decide(transaction, current.id, ApprovalEvent.APPROVE, approved.by.person, approved.reason, now)

    @staticmethod
    async def record(transaction: Transaction, approved: Approved) -> None:
        """Record the approval: the last statement of the act's transaction."""
        one = approved.approval
        act = Act("PayApprovalService/ApprovePayApproval", one.number, one.app_key or "")
        after = {"act": one.method, "object": one.object, "requested_by": one.requested_by, "reason": approved.reason}
        await record(transaction, approved.by, act, None, after)


def _after(wanted: Wanted) -> dict[str, Any]:
    after = wanted.shown.get("after")
    return dict(after) if isinstance(after, Mapping) else {}
