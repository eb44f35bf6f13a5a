"""When a change of a channel needs a second operator, and whether what was approved is still what was shown."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from paycenter_server.domain.accounts import PayAccount
from paycenter_server.services import accounts_errors
from paycenter_server.services.accounts_keys import Plan
from paycenter_server.services.approvals import Approved
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage.database import Transaction


def _other_keys(plan: Plan) -> bool:
    """Whether a plan changes the keys of an account that exists."""
    return plan.stored is not None and plan.account is not plan.stored


def account_needs_approval(stored: PayAccount | None, plan: Plan) -> bool:
    """Whether an account says that a change needs a second operator: other keys, or another account where the one before or the one
    after says so. `stored`: the account before; None of a new channel."""
    if stored is None or plan.account.id == stored.id:
        return plan.account.change_approval and _other_keys(plan)
    return stored.change_approval or plan.account.change_approval


async def app_needs_approval(transaction: Transaction, app_id: UUID, plan: Plan) -> bool:
    """Whether the app of a channel that gets other values says so, or another app whose channels have the account that gets other
    keys."""
    return await app_rows.lock_channel_approval(transaction, app_id, plan.account.id if _other_keys(plan) else None)


def found_account(account: PayAccount | None) -> dict[str, Any] | None:
    """The account of a plan as an approval stores it: which one, and by its version with which keys. None if there is none yet."""
    return {"account": account.number, "version": account.version} if account is not None else None


async def refuse_another_account(transaction: Transaction, plan: Plan, approved: Approved) -> None:
    """ACCOUNT_CHANGED if it is not the account that was shown, or not with the same keys. It stays locked.

    Otherwise one operator could request a channel, and then prepare its account, which no channel has and so nothing protects.
    """
    account = await account_rows.lock_account(transaction, plan.stored.id) if plan.stored is not None else None
    if found_account(account) != approved.approval.request.get("found"):
        raise accounts_errors.account_changed()
