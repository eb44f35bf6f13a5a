"""The operator of the console in the development data: a one-time password that is kept until it is changed."""

from __future__ import annotations

from paycenter_server.cli.seed import console_operator
from support.operators import PASSWORD, PEER
from support.system import PayCenterSystem


async def test_the_password_of_dev_is_kept_until_it_is_changed(system: PayCenterSystem) -> None:
    services = system.services
    first = await console_operator(services, "")
    assert first["name"] == "dev"
    assert await console_operator(services, first["password"]) == first, "the next start shows the same"
    other = await console_operator(services, "of another database")
    assert other["password"] not in (first["password"], "")
    token = await services.sessions.login("dev", other["password"], "", PEER, "test")
    opened = await services.sessions.session(token)
    assert opened is not None
    assert opened.must_change_password
    await services.operators.change_own_password(opened.caller, other["password"], PASSWORD)
    assert await console_operator(services, other["password"]) == {"name": "dev"}, "a password of a person is not replaced"
    assert isinstance(await services.sessions.login("dev", PASSWORD, "", PEER, "test"), str)
