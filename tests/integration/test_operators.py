"""Operators: the last admin, what ends with a disabled one, passwords, and an operator's own credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_operator_service_pb2 as pb
from paycenter_server.domain.credentials import CredentialLimits
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.roles import Role
from support.grpc_rig import Rig, fails, open_rig
from support.locks import transaction, waiting_for_lock
from support.operators import PASSWORD, key_of_person, log_in, person, session_of
from support.system import OPERATOR, PayCenterSystem


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


def reason(result: object) -> str:
    return str(result.reason) if isinstance(result, PayCenterError) else ""


async def test_an_operator_over_the_api(rig: Rig) -> None:
    made = await rig.op.operators.CreatePayOperator(
        pb.CreatePayOperatorRequest(name="Lin", role=pb.OperatorRole.OPERATOR_ROLE_FINANCE, app_keys=["shop"])
    )
    one = made.pay_operator
    assert (one.name, one.role, list(one.app_keys), one.enabled, one.has_password, one.must_change_password, one.has_totp) == (
        "Lin", pb.OperatorRole.OPERATOR_ROLE_FINANCE, ["shop"], True, True, True, False,
    )  # fmt: skip
    assert len(made.password) >= 16
    listed = (await rig.op.operators.ListPayOperators(pb.ListPayOperatorsRequest())).pay_operators
    assert [item.name for item in listed] == ["Lin", "test"]
    changed = await rig.op.operators.UpdatePayOperator(
        pb.UpdatePayOperatorRequest(id=one.id, role=pb.OperatorRole.OPERATOR_ROLE_VIEWER, change_apps=True)
    )
    assert (changed.pay_operator.role, list(changed.pay_operator.app_keys)) == (pb.OperatorRole.OPERATOR_ROLE_VIEWER, [])
    again = await rig.op.operators.ResetPassword(pb.ResetPasswordRequest(id=one.id))
    assert again.password != made.password
    async with fails("OPERATOR_EXISTS"):
        await rig.op.operators.CreatePayOperator(
            pb.CreatePayOperatorRequest(name="Lin", role=pb.OperatorRole.OPERATOR_ROLE_FINANCE)
        )
    async with fails("OPERATOR_NOT_FOUND"):
        await rig.op.operators.ResetPassword(pb.ResetPasswordRequest(id="U01M8ADF7E2FWHB3BMKC55MZ5SM"))
    for wrong in (
        pb.CreatePayOperatorRequest(name="Wu"),
        pb.CreatePayOperatorRequest(name="op_1234", role=pb.OperatorRole.OPERATOR_ROLE_VIEWER),
        pb.CreatePayOperatorRequest(name="Wu", role=pb.OperatorRole.OPERATOR_ROLE_VIEWER, app_keys=["nobody"]),
    ):
        async with fails("INVALID_FIELD"):
            await rig.op.operators.CreatePayOperator(wrong)


async def test_the_last_admin_of_all_apps_keeps_the_role(system: PayCenterSystem) -> None:
    one = await person(system, "anne")
    await person(system, "limited", Role.ADMIN, ("shop",))
    operators = system.services.operators
    for changes in ({"enabled": False}, {"role": Role.VIEWER}, {"app_keys": ["shop"]}):
        with pytest.raises(PayCenterError) as info:
            await operators.update(one.caller, one.number, changes)
        assert info.value.reason == "OPERATOR_LAST_ADMIN"
    other = await person(system, "bert")
    await operators.update(one.caller, one.number, {"role": Role.VIEWER})
    with pytest.raises(PayCenterError) as info:
        await operators.update(one.caller, other.number, {"role": Role.VIEWER})
    assert info.value.reason == "PERMISSION_DENIED"


@pytest.mark.parametrize("others", [0, 1])
async def test_two_admins_demote_each_other_at_once(system: PayCenterSystem, others: int) -> None:
    anne, bert = await person(system, "anne"), await person(system, "bert")
    for number in range(others):
        await person(system, f"other {number}")
    update = system.services.operators.update
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_operator FOR UPDATE")
        calls = [
            asyncio.ensure_future(update(one.caller, other.number, {"role": Role.VIEWER}))
            for one, other in ((anne, bert), (bert, anne))
        ]
        await waiting_for_lock(system, calls)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(map(reason, results)) == ["", "PERMISSION_DENIED"]
    assert await system.value("SELECT count(*) FROM pay_operator WHERE role = 'admin'") == 1 + others


async def test_a_disabled_operator_is_out(rig: Rig) -> None:
    services = rig.system.services
    one = await person(rig.system, "anne", Role.DEVELOPER)
    client = rig.client(*await key_of_person(rig.system, one))
    await client.apps.ListPayApps(app_pb.ListPayAppsRequest())
    token = await log_in(services, one)
    await services.operators.update(OPERATOR, one.number, {"enabled": False})
    async with fails("CREDENTIALS_INVALID"):
        await client.apps.ListPayApps(app_pb.ListPayAppsRequest())
    assert await services.sessions.session(token) is None
    assert await log_in(services, one) == "wrong"
    await services.operators.update(OPERATOR, one.number, {"enabled": True})
    assert await services.sessions.session(token) is None
    await client.close()


async def test_a_login_that_waits_for_the_operator_to_be_disabled_fails(system: PayCenterSystem) -> None:
    one = await person(system, "anne", Role.DEVELOPER)
    async with transaction(system) as held:
        await held.execute("UPDATE pay_operator SET enabled = false WHERE name = 'anne'")
        login = asyncio.ensure_future(log_in(system.services, one))
        await waiting_for_lock(system, [login])
    assert await login == "wrong"
    assert await system.value("SELECT count(*) FROM pay_session WHERE revoke_time IS NULL") == 0


async def test_a_role_that_is_taken_away_is_gone_from_sessions_and_credentials(rig: Rig) -> None:
    services = rig.system.services
    one = await person(rig.system, "anne", Role.DEVELOPER)
    client = rig.client(*await key_of_person(rig.system, one, CredentialLimits(Role.DEVELOPER)))
    token = await log_in(services, one)
    await client.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="shop"))
    await services.operators.update(OPERATOR, one.number, {"role": Role.FINANCE})
    async with fails("PERMISSION_DENIED"):
        await client.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="shop"))
    assert (await session_of(services, token)).role is Role.FINANCE
    await client.close()


async def test_a_password_is_changed_by_its_owner_only(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne")
    token = await log_in(services, one)
    current = await session_of(services, token)
    for wrong, new, field in (
        ("wrong", PASSWORD + "!", "current_password"),
        (PASSWORD, "short", "new_password"),
        (PASSWORD, "anne-anne-anne", "new_password"),
        (PASSWORD, PASSWORD, "new_password"),
    ):
        with pytest.raises(PayCenterError) as info:
            await services.operators.change_own_password(current.caller, wrong, new)
        assert [violation.field for violation in info.value.violations] == [field]
    await services.operators.change_own_password(current.caller, PASSWORD, PASSWORD + "!")
    assert await services.sessions.session(token) is None
    assert await log_in(services, one) == "wrong"
    assert await services.sessions.session(await log_in(services, one, password=PASSWORD + "!")) is not None
    stored = await system.value("SELECT password_hash FROM pay_operator WHERE name = 'anne'")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_the_current_password_cannot_be_guessed_in_a_stolen_session(system: PayCenterSystem) -> None:
    one = await person(system, "anne")
    said = []
    for number in range(12):
        with pytest.raises(PayCenterError) as info:
            await system.services.operators.change_own_password(one.caller, f"wrong {number}", "a new password 123")
        said.append(info.value.message)
    assert "too often" in said[-1]


async def test_a_reset_password_ends_sessions_and_must_be_changed(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne", Role.VIEWER)
    token = await log_in(services, one)
    done = await services.operators.reset_password(OPERATOR, one.number)
    assert await services.sessions.session(token) is None
    assert await log_in(services, one) == "wrong"
    current = await session_of(services, await log_in(services, one, password=done.password))
    with pytest.raises(PayCenterError) as info:
        await services.identity.require(current.caller, "PayOrderService/ListPayOrders")
    assert "Change your password first" in info.value.message
    await services.identity.require(current.caller, "PayOperatorService/ChangeOwnPassword")


async def test_an_own_credential_has_at_most_the_rights_of_its_maker(rig: Rig) -> None:
    one = await person(rig.system, "anne", Role.FINANCE, ("shop",))
    await rig.app("books")
    client = rig.client(*await key_of_person(rig.system, one))
    roles = pb.OperatorRole
    for request in (
        pb.CreateOwnCredentialRequest(name="x", role=roles.OPERATOR_ROLE_ADMIN),
        pb.CreateOwnCredentialRequest(name="x", role=roles.OPERATOR_ROLE_DEVELOPER),
        pb.CreateOwnCredentialRequest(name="x", app_keys=["books"]),
        pb.CreateOwnCredentialRequest(name="x", expire_time=Timestamp(seconds=1)),
    ):
        async with fails("INVALID_FIELD"):
            await client.operators.CreateOwnCredential(request)
    made = await client.operators.CreateOwnCredential(pb.CreateOwnCredentialRequest(name="x", role=roles.OPERATOR_ROLE_VIEWER))
    assert (made.credential.role, list(made.credential.app_keys)) == (roles.OPERATOR_ROLE_VIEWER, ["shop"])
    viewer = rig.client(made.credential.key_id, made.key_secret)
    async with fails("INVALID_FIELD"):
        await viewer.operators.CreateOwnCredential(pb.CreateOwnCredentialRequest(name="x", role=roles.OPERATOR_ROLE_FINANCE))
    other = await person(rig.system, "bert")
    key_id, _ = await key_of_person(rig.system, other)
    async with fails("CREDENTIAL_NOT_FOUND"):
        await client.operators.DisableOwnCredential(pb.DisableOwnCredentialRequest(key_id=key_id))
    done = await client.operators.DisableOwnCredential(pb.DisableOwnCredentialRequest(key_id=made.credential.key_id))
    assert not done.credential.enabled
    async with fails("CREDENTIALS_INVALID"):
        await viewer.operators.ListOwnCredentials(pb.ListOwnCredentialsRequest())
    listed = (await client.operators.ListOwnCredentials(pb.ListOwnCredentialsRequest())).credentials
    assert [item.enabled for item in listed] == [True, False]
    for opened in (client, viewer):
        await opened.close()


async def test_a_credential_ends_and_so_do_those_that_it_makes(rig: Rig) -> None:
    one = await person(rig.system, "anne")
    until = rig.system.clock.now() + timedelta(hours=1)
    key = await key_of_person(rig.system, one, CredentialLimits(expire_time=until))
    client = rig.client(*key)
    made = await client.operators.CreateOwnCredential(pb.CreateOwnCredentialRequest(name="x"))
    assert made.credential.expire_time.ToDatetime(until.tzinfo) == until
    await rig.system.rows("UPDATE pay_credential SET expire_time = now() - interval '1 second' WHERE name = 'x'")
    late = rig.client(made.credential.key_id, made.key_secret)
    async with fails("CREDENTIALS_INVALID"):
        await late.operators.ListOwnCredentials(pb.ListOwnCredentialsRequest())
    for opened in (client, late):
        await opened.close()
