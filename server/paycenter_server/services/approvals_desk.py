"""Reading the acts that wait for a second operator, approving and refusing them."""

from __future__ import annotations

from paycenter_server.domain.approvals import ApprovalKind, PayApproval
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.events import acting
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.states import ApprovalEvent, ApprovalState
from paycenter_server.domain.validation import Check
from paycenter_server.services import approvals_errors as errors
from paycenter_server.services.accounts import Accounts
from paycenter_server.services.approvals import Approvals, Approved
from paycenter_server.services.apps import Apps
from paycenter_server.services.audit import Act, record
from paycenter_server.services.channels import Channels, NewChannel
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Identity
from paycenter_server.services.paging import Page, Pager
from paycenter_server.services.refunds import NewRefund, Refunds
from paycenter_server.storage import approvals as approval_rows
from paycenter_server.storage.approvals import ApprovalFilter

REASON_MAX = 512


class ApprovalDesk:
    """The second operator's use cases."""

    def __init__(
        self,
        context: Context,
        identity: Identity,
        approvals: Approvals,
        refunds: Refunds,
        accounts: Accounts,
        channels: Channels,
        apps: Apps,
    ) -> None:
        self._context = context
        self._identity = identity
        self._approvals = approvals
        self._refunds = refunds
        self._accounts = accounts
        self._channels = channels
        self._apps = apps

    async def get(self, caller: Caller, number: str) -> PayApproval:
        """Read by number. APPROVAL_NOT_FOUND also for one of an app that the caller may not access."""
        self._identity.require_operator(caller)
        key = decode(Prefix.APPROVAL, number)
        async with self._context.database.connection() as connection:
            await approval_rows.expire(connection, self._context.now())
            approval = await approval_rows.get_approval(connection, key) if key else None
        if approval is None or not caller.may_access(approval.app_id):
            raise errors.approval_not_found()
        return approval

    async def search(
        self, caller: Caller, pager: Pager, *, app_key: str = "", state: ApprovalState | None = None,
        kind: ApprovalKind | None = None, about: str = "",
    ) -> Page[PayApproval]:  # fmt: skip
        """List approvals, newest first. `about`: those of the order, account or channel with this number."""
        self._identity.require_operator(caller)
        where = ApprovalFilter(state, kind, await self._identity.list_scope(caller, app_key), about)
        async with self._context.database.connection() as connection:
            await approval_rows.expire(connection, self._context.now())
            rows = await approval_rows.list_approvals(connection, where, limit=pager.size + 1, before=pager.before(where))
        return pager.page(rows, where)

    async def waiting_for(self, caller: Caller, about: str) -> list[PayApproval]:
        """Those that wait about the order, account or channel with this number, or app with this key, which the caller may see."""
        async with self._context.database.connection() as connection:
            where = ApprovalFilter(ApprovalState.PENDING, object=about)
            rows = await approval_rows.list_approvals(connection, where, limit=20, before=None)
        now = self._context.now()
        return [one for one in rows if one.expire_time > now and caller.may_access(one.app_id)]

    async def count(self, caller: Caller) -> int:
        """How many wait, of all apps, at most 1000."""
        self._identity.require_operator(caller)
        async with self._context.database.connection() as connection:
            await approval_rows.expire(connection, self._context.now())
            return await approval_rows.count_waiting(connection)

    async def approve(self, caller: Caller, number: str, reason: str) -> PayApproval:
        """Carry the act out, with all its checks, in the name of the caller. The same again changes nothing."""
        approval = await self._decidable(caller, number, reason)
        if approval.state is ApprovalState.APPROVED:
            return approval
        if approval.state is not ApprovalState.PENDING:
            raise errors.approval_decided(approval)
        approved = Approved(approval, caller, reason)
        try:
            with acting(caller.actor):
                await self._context.run_to_completion(self._carry_out(approved))
        except PayCenterError as error:
            # Of two who approve at the same moment the second finds it carried out.
            current = await self.get(caller, number)
            if error.reason is Reason.APPROVAL_DECIDED and current.state is ApprovalState.APPROVED:
                return current
            raise
        return await self.get(caller, number)

    async def _carry_out(self, approved: Approved) -> None:
        caller, values = approved.by, self._approvals.opened(approved.approval)
        if approved.approval.kind is ApprovalKind.REFUND:
            await self._refunds.create(caller, NewRefund(**values), approved)
        elif approved.approval.kind is ApprovalKind.ACCOUNT:
            await self._accounts.update(
                caller, approved.approval.object, values["changes"], values["message"], values["config"], values["overlap_hours"],
                approved=approved, version=values["version"],
            )  # fmt: skip
        elif approved.approval.kind is ApprovalKind.NEW_CHANNEL:
            new = NewChannel(**{name: value for name, value in values.items() if name != "found"})
            await self._channels.create(caller, new, approved=approved)
        elif approved.approval.kind is ApprovalKind.APP:
            await self._apps.update(caller, approved.approval.object, values["changes"], approved=approved)
        else:
            await self._channels.update(
                caller, approved.approval.object, values["changes"], values["family"], values["config"], values["account"],
                approved=approved, version=values["version"],
            )  # fmt: skip
        await self._end(approved)

    async def _end(self, approved: Approved) -> None:
        """Approve what had nothing left to carry out: the app has made the same refund meanwhile."""
        async with self._context.database.transaction() as transaction:
            current = await approval_rows.lock_approval(transaction, approved.approval.id)
            if current is not None and current.state is ApprovalState.PENDING:
                await self._approvals.take(transaction, approved)
                await self._approvals.record(transaction, approved)

    async def refuse(self, caller: Caller, number: str, reason: str) -> PayApproval:
        """Refuse the act, with a reason. Who requested it may take it back in this way."""
        approval = await self._decidable(caller, number, reason, minimum=1)
        async with self._context.database.transaction() as transaction:
            done = await approval_rows.decide(
                transaction, approval.id, ApprovalEvent.REFUSE, caller.person, reason, self._context.now()
            )
            if done:
                act = Act("PayApprovalService/RefusePayApproval", approval.number, approval.app_key or "")
                after = {"act": approval.method, "object": approval.object, "reason": reason}
                await record(transaction, caller, act, None, after)
        current = await self.get(caller, number)
        if current.state is not ApprovalState.REFUSED:
            raise errors.approval_decided(current)
        return current

    async def _decidable(self, caller: Caller, number: str, reason: str, minimum: int = 0) -> PayApproval:
        """The approval, of an act that the caller may do."""
        check = Check()
        check.text("reason", reason, REASON_MAX, minimum=minimum)
        check.done()
        approval = await self.get(caller, number)
        await self._identity.require(caller, approval.method)
        return approval
