"""Statements on pay_account."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.accounts import PayAccount, Unsettled
from paycenter_server.domain.cases import CONFLICTS, SURPLUS
from paycenter_server.domain.states import OPEN_ATTEMPT, REFUND, RefundEvent, sources
from paycenter_server.storage.database import Connection, Transaction, WriteConnection
from paycenter_server.storage.rows import RowMapping

ACCOUNTS = RowMapping(PayAccount, "pay_account")


async def insert_account(connection: WriteConnection, account: PayAccount) -> bool:
    """Insert an account. False if there is one with this family and identity; another transaction that inserts it is waited for."""
    done = await connection.fetchval(
        f"{ACCOUNTS.insert} ON CONFLICT (family, identity) DO NOTHING RETURNING id", *ACCOUNTS.values(account)
    )
    return done is not None


async def get_account(connection: Connection, account_id: UUID) -> PayAccount | None:
    """Read by id, enabled or not; None if there is none."""
    return ACCOUNTS.model(await connection.fetchrow(f"{ACCOUNTS.select} WHERE t.id = $1", account_id))


async def get_accounts(connection: Connection, account_ids: Sequence[UUID]) -> list[PayAccount]:
    """Read several by id."""
    return ACCOUNTS.models(await connection.fetch(f"{ACCOUNTS.select} WHERE t.id = ANY($1)", list(account_ids)))


async def get_account_by_identity(connection: Connection, family: str, identity: str) -> PayAccount | None:
    """Read by family and identity; None if there is none."""
    return ACCOUNTS.model(await connection.fetchrow(f"{ACCOUNTS.select} WHERE t.family = $1 AND t.identity = $2", family, identity))


async def update_account(connection: WriteConnection, account: PayAccount, now: datetime) -> bool:
    """Store everything that may change of an account that still has this version. False if another call has changed it.

    The family and the identity never change, so they are not set.
    """
    done = await connection.fetchval(
        """UPDATE pay_account SET name = $3, enabled = $4, remark = $5, config = $6, earlier_keys = $7, version = version + 1,
           change_approval = $9, update_time = $8 WHERE id = $1 AND version = $2 RETURNING id""",
        account.id, account.version, account.name, account.enabled, account.remark, dict(account.config),
        list(account.earlier_keys), now, account.change_approval,
    )  # fmt: skip
    return done is not None


async def lock_account(transaction: Transaction, account_id: UUID) -> PayAccount | None:
    """Read by id and lock until the end of the transaction, so that nothing new is begun over the account."""
    return ACCOUNTS.model(await transaction.fetchrow(f"{ACCOUNTS.select} WHERE t.id = $1 FOR NO KEY UPDATE", account_id))


def holding(place: str, skip: str = "") -> str:
    """A SELECT of the account with this id, if it is enabled. Until the end of the transaction it cannot be disabled.

    `place` may be ANY(…), for several accounts. `skip`: " SKIP LOCKED" for no wait: one that is being changed is none then.

    In a statement that begins something over the account it is a CTE, on which all that the statement changes depends.
    """
    return f"SELECT id FROM pay_account WHERE id = {place} AND enabled FOR SHARE{skip}"


_HOLD = holding("$1")


async def hold_enabled(transaction: Transaction, account_id: UUID) -> bool:
    """Whether the account is enabled. Until the end of the transaction it cannot be disabled."""
    return await transaction.fetchval(_HOLD, account_id) is not None


async def count_unsettled(connection: Connection, account_id: UUID) -> Unsettled:
    """Count the attempts and refunds of the account that are not settled, and its open cases whose decision may send a refund.
    Second looks at final states do not count.

    Every unsettled row has a time of its next check, so that the indexes of the jobs serve; an open case has no time of its end.
    """
    row = await connection.fetchrow(
        """SELECT (SELECT count(*) FROM pay_attempt WHERE account_id = $1 AND next_check_time IS NOT NULL AND state = ANY($2))
                    AS attempts,
                  (SELECT count(*) FROM pay_refund WHERE account_id = $1 AND next_check_time IS NOT NULL AND state = ANY($3))
                    AS refunds,
                  (SELECT count(*) FROM pay_case WHERE account_id = $1 AND resolve_time IS NULL AND kind = ANY($4)) AS cases""",
        account_id, OPEN_ATTEMPT, sources(REFUND, RefundEvent.SUCCEED), [kind.value for kind in (*SURPLUS, *CONFLICTS)],
    )  # fmt: skip
    return Unsettled(row["attempts"], row["refunds"], row["cases"]) if row else Unsettled(0, 0, 0)


async def delete_account(connection: WriteConnection, account_id: UUID) -> None:
    """Delete an account. ForeignKeyViolation if a channel has or had it."""
    await connection.execute("DELETE FROM pay_account WHERE id = $1", account_id)


async def list_accounts(connection: Connection, *, limit: int, before: UUID | None, family: str) -> list[PayAccount]:
    """List accounts, newest first; of all families if it is empty."""
    rows = await connection.fetch(
        f"{ACCOUNTS.select} WHERE ($1 = '' OR t.family = $1) AND ($2::uuid IS NULL OR t.id < $2) ORDER BY t.id DESC LIMIT $3",
        family, before, limit,
    )  # fmt: skip
    return ACCOUNTS.models(rows)
