"""The audit: a row in the transaction of each act, without secrets; and rows that were changed or removed are found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from paycenter.v1 import pay_audit_service_pb2 as pb
from paycenter_server.domain.audit import Origin, set_origin
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.roles import Role
from paycenter_server.services.accounts import NewAccount
from paycenter_server.services.audit import REFUSED_PER_MINUTE, verify
from paycenter_server.services.channels import NewChannel
from paycenter_server.storage import audit as audit_rows
from paycenter_server.storage.audit import AuditFilter
from paycenter_server.storage.database import Connection
from support.cases import hold, last_case, late
from support.grpc_rig import Rig, open_rig
from support.locks import transaction
from support.operators import PASSWORD, audit_end, audited, log_in, person, session_of
from support.plans import cost
from support.system import OPERATOR, PayCenterSystem


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def act_names(system: PayCenterSystem, after: int) -> list[str]:
    return [row.act.rpartition("/")[2] for row in await audited(system, after)]


async def check(system: PayCenterSystem, after: str = "", batch: int = 1000) -> str:
    async with system.services.context.database.connection() as connection:
        return await broken(connection, after, batch)


async def broken(connection: Connection, after: str = "", batch: int = 1000) -> str:
    return [found async for found in verify(connection, after, batch)][-1].broken


async def anchor(system: PayCenterSystem) -> str:
    async with system.services.context.database.connection() as connection:
        return [found async for found in verify(connection)][-1].anchor


async def test_each_act_of_an_operator_has_a_row_without_secrets(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne")
    set_origin(Origin(f"ipv4:{'1' * 500}", "request 1"))
    before, by = await audit_end(system), one.caller
    secrets = [PASSWORD]

    await services.apps.update(by, "shop", {"remark": "x"})
    secrets.append(await services.apps.rotate_notification_secret(by, "shop"))
    credential, secret = await services.credentials.create(by, "shop", "second")
    secrets.append(secret)
    await services.credentials.disable(by, "shop", credential.key_id)
    family, config = system.configs["alipay_wap"]
    channel = await services.channels.create(by, NewChannel("shop", "alipay_wap", 1, "", family, config, enabled=True))
    await services.channels.update(by, channel.channel.number, {"enabled": False}, "", None)
    await services.channels.delete(by, channel.channel.number)
    account = await services.accounts.create(
        by, NewAccount("a", "", "wechatpay", "wechatpay", {**keys(system), "mchid": "1900009999"})
    )
    await services.accounts.update(by, account.account.number, {"remark": "y"}, "", None)
    await services.accounts.delete(by, account.account.number)
    order = await system.paid("mock")
    refunded = await services.refunds.create(by, refund_of(order))
    await services.refunds.create(system.caller, refund_of(order, "by the app"))
    for task in await system.rows("SELECT id FROM pay_notify_task"):
        assert task["id"]
    await system.deliver()
    number = (await services.notifications.search(by, "shop", _no_filter(), _pager())).items[0].number
    await services.notifications.resend(by, number)
    await services.notifications.send_now(by, number)
    await system.deliver()
    await services.notifications.resend_matching(by, "shop", _no_filter("SUCCESS"), _pager(), dry_run=True)
    await services.notifications.resend_matching(by, "shop", _no_filter("SUCCESS"), _pager(), dry_run=False)
    other = await services.operators.create(by, new_operator("bert"))
    secrets.append(other.password)
    await services.operators.update(by, other.operator.number, {"role": Role.FINANCE})
    secrets.append((await services.operators.reset_password(by, other.operator.number)).password)
    token = await log_in(services, one)
    secrets.append(token)
    current = await session_of(services, token)
    await services.sessions.revoke(current.caller, current.number)
    made = await services.totp.begin(by, PASSWORD)
    secrets.append(made.secret)
    await services.totp.remove(by, PASSWORD)
    own, secret = await services.credentials.create_own(by, "own", _no_limits())
    secrets.append(secret)
    await services.credentials.create_operator("spare")
    await services.credentials.disable_own(by, own.credential.key_id)

    rows = await audited(system, before)
    assert [row.act.rpartition("/")[2] for row in rows] == [
        "UpdatePayApp", "RotateNotificationSecret", "CreateAppCredential", "DisableAppCredential", "CreatePayChannel",
        "UpdatePayChannel", "DeletePayChannel", "CreatePayAccount", "UpdatePayAccount", "DeletePayAccount", "CreatePayRefund",
        "ResendPayNotification", "SendPayNotificationNow", "ResendPayNotifications", "CreatePayOperator", "UpdatePayOperator",
        "ResetPassword", "login", "RevokeSession", "ChangeOwnTotp", "CreateOwnCredential", "paycenter operator",
        "DisableOperatorCredential",
    ]  # fmt: skip
    everything = json.dumps([[row.object, row.before, row.after] for row in rows])
    private_key = config["private_key"].replace("\n", "")[100:140]
    for secret in (*secrets, private_key, "v1:"):
        assert secret not in everything
    assert {(row.operator, row.outcome, row.request_id) for row in rows if row.actor_kind == "OPERATOR"} == {
        ("anne", "OK", "request 1")
    }
    assert {len(row.peer) for row in rows} == {200}
    assert (rows[0].before, rows[0].after) == ({"remark": ""}, {"remark": "x"})
    assert (rows[5].before, rows[5].after, rows[5].app_key) == ({"enabled": True}, {"enabled": False}, "shop")
    assert (rows[10].object, (rows[10].after or {})["amount"]) == (refunded.number, 1)
    assert await check(system) == ""


async def test_acts_about_orders_and_cases_have_a_row_each(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne")
    await hold(system)
    order, (_, case) = await system.order(), await late(system)
    before = await audit_end(system)
    await services.orders.update_price(one.caller, order.number, 90)
    await services.orders.close(one.caller, order.number)
    await services.orders.close(one.caller, order.number)
    await services.case_desk.comment(one.caller, case.number, "called")
    await services.case_desk.assign(one.caller, case.number, "anne")
    other = await system.order()
    await services.orders.update_price(system.caller, other.number, 90)
    await services.orders.close(system.caller, other.number)
    rows = await audited(system, before)
    assert [(row.act, row.object, row.before, row.after) for row in rows] == [
        ("PayOrderService/UpdatePayOrderPrice", order.number, {"amount": 100}, {"amount": 90}),
        ("PayOrderService/ClosePayOrder", order.number, None, {"amount": 90, "state": "CLOSED"}),
        ("PayCaseService/CommentPayCase", case.number, None, {"comment": "called"}),
        ("PayCaseService/AssignPayCase", case.number, {"assignee": ""}, {"assignee": "anne"}),
    ]
    assert {(row.operator, row.app_key) for row in rows} == {("anne", "shop")}


def keys(system: PayCenterSystem) -> dict[str, str]:
    names = ("mchid", "api_v3_key", "private_key", "merchant_serial", "mch_serial", "apiv3_key", "gateway_url", "api_version")
    known = system.configs["wx_native"][1]
    return {name: value for name, value in known.items() if name != "appid"} if known else dict.fromkeys(names, "")


def refund_of(order: Any, reason: str = "x") -> Any:
    from paycenter_server.services.refunds import NewRefund

    return NewRefund("shop", order.merchant_order_id, f"R {reason}", 1, reason)


def new_operator(name: str) -> Any:
    from paycenter_server.services.operators import NewOperator

    return NewOperator(name, Role.VIEWER)


def _no_filter(state: str = "") -> Any:
    from paycenter_server.domain.states import NotificationState
    from paycenter_server.storage.notifications import NotificationFilter

    return NotificationFilter(state=NotificationState(state) if state else None)


def _no_limits() -> Any:
    from paycenter_server.domain.credentials import CredentialLimits

    return CredentialLimits()


def _pager() -> Any:
    from paycenter_server.services.paging import Pager

    return Pager(0, "")


async def test_a_decision_about_a_case_has_a_row(system: PayCenterSystem) -> None:
    from paycenter_server.domain.cases import Decision

    await hold(system)
    await late(system)
    case = await last_case(system)
    one = await person(system, "anne", Role.FINANCE)
    before = await audit_end(system)
    await system.services.case_decisions.decide(one.caller, case.number, Decision.CLOSE, "sent back by hand")
    (row,) = await audited(system, before)
    assert (row.act, row.object, row.operator, row.app_key) == ("PayCaseService/DecidePayCase", case.number, "anne", "shop")
    assert row.after is not None
    assert (row.after["decision"], row.after["state"], row.after["reason"]) == ("CLOSE", "RESOLVED", "sent back by hand")


async def test_the_second_operator_of_a_case_is_another_person(system: PayCenterSystem) -> None:
    """Not the same operator with another credential."""
    from dataclasses import replace

    from paycenter_server.domain.cases import Decision

    await hold(system)
    await system.services.apps.update(OPERATOR, "shop", {"case_decision_limit": 1})
    await late(system)
    case = await last_case(system)
    anne, bert = await person(system, "anne", Role.FINANCE), await person(system, "bert", Role.FINANCE)
    decide = system.services.case_decisions.decide
    await decide(anne.caller, case.number, Decision.CLOSE, "x")
    with pytest.raises(PayCenterError) as info:
        await decide(replace(anne.caller, key_id="op_another"), case.number, Decision.CLOSE, "x")
    assert info.value.reason == "CASE_NEEDS_SECOND_OPERATOR"
    done = await decide(bert.caller, case.number, Decision.CLOSE, "x")
    assert done.case.state.value == "RESOLVED"


async def test_an_act_without_its_row_is_not_done(system: PayCenterSystem) -> None:
    """The row is in the transaction of the act: if it cannot be written, nothing is changed; if the act fails, there is no row."""
    before = await audit_end(system)
    with pytest.raises(PayCenterError):
        await system.services.apps.create(OPERATOR, await _new_app(system))
    assert await audit_end(system) == before
    await system.rows("ALTER TABLE pay_audit ADD CONSTRAINT no_more CHECK (false) NOT VALID")
    try:
        with pytest.raises(asyncpg.CheckViolationError):
            await system.services.apps.update(OPERATOR, "shop", {"remark": "not audited"})
        with pytest.raises(asyncpg.CheckViolationError):
            await system.services.credentials.create(OPERATOR, "shop", "not audited")
    finally:
        await system.rows("ALTER TABLE pay_audit DROP CONSTRAINT no_more")
    assert await system.value("SELECT remark FROM pay_app") == ""
    assert await system.value("SELECT count(*) FROM pay_credential WHERE name = 'not audited'") == 0


async def _new_app(system: PayCenterSystem) -> Any:
    from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
    from paycenter_server.services.apps import NewApp

    url = "http://merchant.test/x"
    return NewApp("shop", "x", "", url, url, SurplusPolicy.HOLD, NotificationSuccess.HTTP_2XX)


async def test_acts_at_the_same_time_make_one_chain(system: PayCenterSystem) -> None:
    before = await audit_end(system)
    await asyncio.gather(*(system.services.credentials.create(OPERATOR, "shop", f"c {number}") for number in range(20)))
    rows = await audited(system, before)
    assert [row.id for row in rows] == list(range(before + 1, before + 21))
    assert await check(system) == ""
    assert await check(system, batch=3) == ""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pay_audit SET outcome = 'x'", "DELETE FROM pay_audit", "TRUNCATE pay_audit", "DELETE FROM pay_audit_head",
        "TRUNCATE pay_audit_head", "UPDATE pay_audit_head SET last_id = last_id - 1",
        "UPDATE pay_audit_head SET last_hash = ''",
    ],
)  # fmt: skip
async def test_the_database_refuses_to_change_the_audit(system: PayCenterSystem, statement: str) -> None:
    await system.services.credentials.create(OPERATOR, "shop", "x")
    with pytest.raises(asyncpg.RestrictViolationError):
        await system.rows(statement)


@asynccontextmanager
async def forged(system: PayCenterSystem, *statements: str) -> AsyncIterator[Connection]:
    """The audit after statements of somebody who owns the database; it is taken back at the end."""
    for number in range(5):
        await system.services.credentials.create(OPERATOR, "shop", f"c {number}")
    with suppress(asyncpg.RaiseError):
        async with transaction(system) as connection:
            for table in ("pay_audit", "pay_audit_head"):
                await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            for statement in statements:
                await connection.execute(statement)
            yield connection
            await connection.execute("DO $$ BEGIN RAISE EXCEPTION 'take it back'; END $$")


LAST = "(SELECT last_id FROM pay_audit_head)"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (f"UPDATE pay_audit SET operator = 'bert' WHERE id = {LAST} - 2", "row {n-2} was changed"),
        (f"UPDATE pay_audit SET after = '{{}}' WHERE id = {LAST}", "row {n} was changed"),
        (f"UPDATE pay_audit SET time = time - interval '1 microsecond' WHERE id = {LAST} - 1", "row {n-1} was changed"),
        (f"UPDATE pay_audit SET hash = sha256('x') WHERE id = {LAST} - 2", "row {n-2} was changed"),
        (f"DELETE FROM pay_audit WHERE id = {LAST} - 2", "row {n-2} is missing"),
        (f"DELETE FROM pay_audit WHERE id >= {LAST} - 1", "row {n-1} is missing"),
        ("DELETE FROM pay_audit", "row 1 is missing"),
        (f"UPDATE pay_audit SET previous_hash = sha256('x') WHERE id = {LAST} - 2", "row {n-2} does not follow"),
        ("UPDATE pay_audit_head SET last_hash = sha256('x')", "row {n} has another hash than the head names"),
    ],
    ids=["operator", "after", "time", "hash", "middle", "tail", "all", "previous", "head"],
)
@pytest.mark.parametrize("batch", [2, 1000], ids=["small", "large"])
async def test_a_forged_audit_is_found(system: PayCenterSystem, statement: str, said: str, batch: int) -> None:
    async with forged(system, statement) as connection:
        last = await connection.fetchval("SELECT last_id FROM pay_audit_head")
        for back in (2, 1):
            said = said.replace(f"{{n-{back}}}", str(last - back))
        assert (await broken(connection, batch=batch)).startswith(said.replace("{n}", str(last)))


async def test_an_anchor_finds_a_tail_that_was_removed_with_its_head(system: PayCenterSystem) -> None:
    await system.services.credentials.create(OPERATOR, "shop", "x")
    kept = await anchor(system)
    cut = [
        f"DELETE FROM pay_audit WHERE id >= {kept.partition(':')[0]}",
        "UPDATE pay_audit_head h SET last_id = a.id, last_hash = a.hash FROM pay_audit a "
        "WHERE a.id = (SELECT max(id) FROM pay_audit)",
    ]
    async with forged(system, *cut) as connection:
        assert await broken(connection) == ""
        assert "which the anchor names" in await broken(connection, kept)
    number, _, hashed = kept.partition(":")
    assert await check(system, kept) == ""
    assert "another hash than the anchor" in await check(system, f"{number}:{'0' * len(hashed)}")


async def test_refused_attempts_cannot_fill_the_audit(system: PayCenterSystem) -> None:
    before = await audit_end(system)
    for number in range(REFUSED_PER_MINUTE + 5):
        with pytest.raises(PayCenterError):
            await system.services.identity.require(system.caller, f"PayAppService/DeletePayApp {number}")
    assert await audit_end(system) - before == REFUSED_PER_MINUTE


async def test_the_audit_over_the_api(rig: Rig) -> None:
    await rig.system.services.apps.update(OPERATOR, "shop", {"remark": "x", "case_decision_limit": 5})
    for number in range(3):
        await rig.system.services.credentials.create(OPERATOR, "shop", f"c {number}")
    request = pb.ListAuditEntriesRequest(app_key="shop", act="PayCredentialService/CreateAppCredential", page_size=2)
    page = await rig.op.audit.ListAuditEntries(request)
    assert [entry.after["name"] for entry in page.entries] == ["c 2", "c 1"]
    request.page_token = page.next_page_token
    assert (await rig.op.audit.ListAuditEntries(request)).entries[0].after["name"] == "c 0"
    (entry,) = (
        await rig.op.audit.ListAuditEntries(pb.ListAuditEntriesRequest(act="PayAppService/UpdatePayApp", page_size=1))
    ).entries
    assert (entry.actor_kind, entry.actor, entry.object, entry.outcome) == ("SYSTEM", "test", "shop", "OK")
    assert (dict(entry.before), dict(entry.after)) == (
        {"remark": "", "case_decision_limit": None}, {"remark": "x", "case_decision_limit": 5},
    )  # fmt: skip
    assert len(entry.hash) == 64


DAY = datetime(2020, 3, 1, tzinfo=UTC)
ROWS = 20_000
FILTERS = {
    "everything": AuditFilter(), "operator": AuditFilter(operator="anne"), "act": AuditFilter(act="rare"),
    "object": AuditFilter(object="O7"), "app": AuditFilter(app_key="shop-7"), "outcome": AuditFilter(outcome="PERMISSION_DENIED"),
    "a day long ago": AuditFilter(time_from=DAY, time_to=DAY + timedelta(days=1)), "until a day": AuditFilter(time_to=DAY),
    "object and app": AuditFilter(object="O7", app_key="shop-7"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILTERS)
async def test_a_page_of_the_audit_reads_what_it_shows(system: PayCenterSystem, name: str) -> None:
    """Of 20,000 rows over 2,000 days, none of which is committed."""
    made = f"""INSERT INTO pay_audit (id, time, actor_kind, actor, operator, act, object, outcome, app_key, peer, request_id,
          previous_hash, hash)
        SELECT n - 10000000, timestamptz '2018-01-01Z' + n * interval '2.4 hours', 'OPERATOR', 'k',
          CASE n % 1000 WHEN 7 THEN 'anne' ELSE 'ben' END, CASE n % 1000 WHEN 7 THEN 'rare' ELSE 'often' END, 'O' || n % 2000,
          CASE n % 1000 WHEN 7 THEN 'PERMISSION_DENIED' ELSE 'OK' END, 'shop-' || n % 2000, '', '', '', ''
        FROM generate_series(1, {ROWS}) n; ANALYZE pay_audit"""
    where = FILTERS[name]
    assert await cost(system, lambda found: audit_rows.list_entries(found, where, limit=51, before=None), made) <= 5 * 51


async def test_the_filters_of_the_audit_together(system: PayCenterSystem) -> None:
    one = await person(system, "anne")
    await system.services.apps.update(one.caller, "shop", {"remark": "x"})
    await system.services.apps.update(OPERATOR, "shop", {"remark": "y"})
    now = datetime.now(UTC)
    minute = timedelta(minutes=1)
    found = {"operator": "anne", "act": "PayAppService/UpdatePayApp", "app_key": "shop", "outcome": "OK", "object": "shop",
             "time_from": now - minute, "time_to": now + minute}  # fmt: skip
    others = {"operator": "nobody", "act": "login", "app_key": "x", "outcome": "x", "object": "x",
              "time_from": now + minute, "time_to": now - minute}  # fmt: skip

    async def remarks(**where: Any) -> list[str]:
        async with system.services.context.database.connection() as connection:
            rows = await audit_rows.list_entries(connection, AuditFilter(**where), limit=10, before=None)
        return [str((row.after or {}).get("remark")) for row in rows.entries]

    assert (await remarks(**found))[0] == "x"
    for name, value in others.items():
        assert "x" not in await remarks(**{**found, name: value}), name
