"""Many rows that differ in their keys only."""

from __future__ import annotations

from uuid import UUID

from support.system import PayCenterSystem


async def copies(system: PayCenterSystem, table: str, count: int, account: UUID | None = None, **values: str) -> None:
    """Copies of a row of a table, due for an hour, over this account. `values`: SQL for further columns, in which `n` counts."""
    columns = {
        row["column_name"] for row in await system.rows(
            "SELECT column_name FROM information_schema.columns WHERE table_name = $1", table
        )
    }  # fmt: skip
    given = {
        "id": "gen_random_uuid()", "next_check_time": "now() - interval '1 hour' + make_interval(secs => 0.01 * n)",
        "merchant_order_id": "gen_random_uuid()::text", "merchant_refund_no": "gen_random_uuid()::text",
        "out_refund_key": "gen_random_uuid()", **({"account_id": f"'{account}'"} if account else {}), **values,
    }  # fmt: skip
    changed = ", ".join(f"'{name}', {value}" for name, value in given.items() if name in columns)
    await system.rows(
        f"""INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object({changed}))).*
            FROM {table} t, generate_series(1, {count}) n WHERE t.id = (SELECT id FROM {table} ORDER BY id LIMIT 1)"""
    )


async def accounts(system: PayCenterSystem) -> tuple[UUID, UUID]:
    """The account of WeChat Pay, and that of Alipay."""
    found = {row["family"]: row["id"] for row in await system.rows("SELECT family, id FROM pay_account")}
    return found["wechatpay"], found["alipay"]
