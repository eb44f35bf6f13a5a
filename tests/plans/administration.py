"""What operators administer: apps, accounts, channels, credentials, operators and their sessions, approvals, views."""

from __future__ import annotations

from contextlib import suppress

from paycenter_server.domain.credentials import CredentialLimits
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.roles import Role
from paycenter_server.domain.views import ViewList
from paycenter_server.services.operators_totp import hash_recovery_code
from paycenter_server.services.paging import Pager
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage import operators as operator_rows
from support.cases import ANNE, BEN
from support.merchants import merchant_of
from support.operators import Person, log_in, person
from support.system import OPERATOR, PayCenterSystem

ALL = Pager(10, "")


async def apps(system: PayCenterSystem) -> None:
    """An app is made, changed and deleted; another one has orders."""
    services = system.services
    await system.add_app("brief", codes=("wx_native", "mock"))
    for app_key in ("brief", "shop"):
        await services.apps.get(OPERATOR, app_key)
        url = f"http://moved.test/{app_key}"
        await services.apps.update(OPERATOR, app_key, {"order_notification_url": url, "refund_notification_url": url})
        await services.apps.search(OPERATOR, app_key, True, ALL)
        await services.channels.search(OPERATOR, app_key, ALL)
        await services.channels.enabled_codes(OPERATOR, app_key)
        await services.credentials.list_of_app(OPERATOR, app_key)
    await services.apps.search(OPERATOR, "", None, ALL)
    await services.apps.rotate_notification_secret(OPERATOR, "brief")
    credential, _ = await services.credentials.create(OPERATOR, "brief", "second")
    await services.credentials.disable(OPERATOR, "brief", credential.key_id)
    await services.identity.authenticate(system.secrets["brief:authorization"])
    await services.channels.delete(OPERATOR, system.channels["brief:wx_native"])
    for app_key in ("brief", "shop"):
        with suppress(PayCenterError):
            await services.apps.delete(OPERATOR, app_key)
    with suppress(PayCenterError):
        await services.channels.delete(OPERATOR, system.channels["wx_native"])


async def accounts(system: PayCenterSystem) -> None:
    """Accounts and channels are read, changed, and cannot be deleted while they are used."""
    services = system.services
    for found in (await services.accounts.search(OPERATOR, "", ALL)).items:
        number = found.account.number
        await services.accounts.get(OPERATOR, number)
        await services.accounts.uses(OPERATOR, number)
        for changes in ({"remark": "changed"}, {"enabled": False}, {"enabled": True}):
            with suppress(PayCenterError):
                await services.accounts.update(OPERATOR, number, changes, "", None)
        with suppress(PayCenterError):
            await services.accounts.delete(OPERATOR, number)
    number = system.channels["wx_native"]
    await services.channels.get(OPERATOR, number)
    family, config = merchant_of(system.keys_dir, system.simulator).config("wx_native", "v2")
    await services.channels.update(OPERATOR, number, {}, family, config)
    await services.channels.update(OPERATOR, number, {"remark": "changed"}, "", None)
    await services.health.check()


async def operators(system: PayCenterSystem) -> None:
    """Operators with passwords, authenticators, sessions and views."""
    services, one = system.services, await person(system, "carla")
    second = await person(system, "dora", Role.VIEWER, ["shop"])
    token = await log_in(services, one)
    await log_in(services, one, password="wrong")
    await log_in(services, one, password="wrong", peer="203.0.113.8")
    await services.sessions.session(token)
    await services.sessions.list_all(OPERATOR)
    await services.sessions.list_own(one.caller)
    await services.sessions.list_of(OPERATOR, one.operator)
    await services.sessions.logout(token)
    await services.operators.search(OPERATOR, ALL)
    await services.operators.get(OPERATOR, one.number)
    await services.operators.waits(OPERATOR, [one.operator])
    await services.operators.update(OPERATOR, second.number, {"role": Role.FINANCE})
    await services.operators.unlock(OPERATOR, one.number)
    await services.operators.reset_password(OPERATOR, one.number)
    await credentials(system, one)
    for name in ("day", "night"):
        await services.views.save(one.caller, ViewList.ORDERS, name, "state=SUCCESS")
    for view in await services.views.list_own(one.caller, ViewList.ORDERS):
        await services.views.delete(one.caller, view.id)
    async with services.context.database.connection() as connection:
        await operator_rows.use_totp_step(connection, one.operator.id, 1)
        await operator_rows.use_recovery_code(connection, one.operator.id, hash_recovery_code("none"))


async def credentials(system: PayCenterSystem, one: Person) -> None:
    """Credentials of operators."""
    services = system.services
    made, _ = await services.credentials.create_own(one.caller, "key", CredentialLimits())
    await services.credentials.list_operators(OPERATOR)
    await services.credentials.list_own(one.caller)
    with suppress(PayCenterError):
        await services.credentials.disable_own(one.caller, made.credential.key_id)
    key, _ = await services.credentials.create_operator("emil")
    await services.credentials.disable_operator(OPERATOR, key)


async def approvals(system: PayCenterSystem) -> None:
    """Acts that need a second operator: refunds, and what takes a protection away."""
    services = system.services
    await services.apps.update(OPERATOR, "shop", {"refund_approval_limit": 40})
    order = await system.paid("mock")
    for number in ("R-two-1", "R-two-2", "R-two-2"):
        try:
            await services.refunds.create(ANNE, NewRefund("shop", order.merchant_order_id, number, 45, "defect"))
        except PayCenterError as error:
            waiting = error.metadata["pay_approval_id"]
        await services.approval_desk.get(BEN, waiting)
        await services.approval_desk.waiting_for(BEN, order.number)
        if number == "R-two-1":
            await services.approval_desk.approve(BEN, waiting, "")
    await services.approval_desk.refuse(BEN, waiting, "no")
    try:
        await services.apps.update(ANNE, "shop", {"refund_approval_limit": None})
    except PayCenterError as error:
        await services.approval_desk.approve(BEN, error.metadata["pay_approval_id"], "")
