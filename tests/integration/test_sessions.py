"""Logins and sessions of operators, and the attacks on them. Time is the database's, so the tests move the times of rows."""

from __future__ import annotations

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from paycenter_server.bootstrap import open_services
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.operators import TOTP_SECONDS, totp_code
from paycenter_server.domain.roles import Role
from paycenter_server.services.passwords import _MOST_WAITING
from paycenter_server.services.sessions import LoginProblem, csrf_token
from support.operators import PASSWORD, PEER, Person, audit_end, audited, log_in, person, session_of
from support.system import OPERATOR, PayCenterSystem


class Counting(ThreadPoolExecutor):
    """Threads that count what they are given."""

    count = 0

    def submit(self, *work: Any, **more: Any) -> Any:
        self.count += 1
        return super().submit(*work, **more)


async def forget_peer(system: PayCenterSystem) -> None:
    await system.rows("DELETE FROM pay_login_failure WHERE subject LIKE 'peer:%'")


async def unblock(system: PayCenterSystem) -> None:
    await system.rows("UPDATE pay_login_failure SET blocked_until = now() - interval '1 second'")


def now_step() -> int:
    return int(time.time()) // TOTP_SECONDS


async def with_totp(system: PayCenterSystem, one: Person) -> tuple[bytes, list[str], int]:
    """The secret, the recovery codes, and the step whose code has confirmed it."""
    made = await system.services.totp.begin(one.caller, PASSWORD)
    secret, step = base64.b32decode(made.secret), now_step()
    assert made.address == f"otpauth://totp/PayCenter%3Aanne?secret={made.secret}&issuer=PayCenter"
    return secret, await system.services.totp.confirm(one.caller, totp_code(secret, step)), step


# RFC 6238, appendix B, with the last 6 of its 8 digits.
@pytest.mark.parametrize(
    ("seconds", "code"), [(59, "287082"), (1111111109, "081804"), (2000000000, "279037"), (20000000000, "353130")]
)
def test_the_codes_of_the_rfc(seconds: int, code: str) -> None:
    assert totp_code(b"12345678901234567890", seconds // TOTP_SECONDS) == code


async def test_a_session_from_login_to_logout(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne", Role.FINANCE, ("shop",))
    token = await log_in(services, one)
    current = await session_of(services, token)
    assert (current.operator_name, current.role, current.caller.scope_keys) == ("anne", Role.FINANCE, ("shop",))
    assert not current.must_change_password
    # Only the hash of the token is stored, and who reads the database cannot compute the CSRF token.
    assert token.encode() not in b"".join(row["token_hash"] for row in await system.rows("SELECT token_hash FROM pay_session"))
    assert current.csrf == csrf_token(token) != csrf_token(token[:-1] + "A" if token[-1] != "A" else token[:-1] + "B")
    (listed,) = await services.sessions.list_own(one.caller)
    assert (listed.operator_name, listed.session.peer, listed.session.agent) == ("anne", PEER, "test")
    await services.sessions.logout(token)
    assert await services.sessions.session(token) is None
    await services.sessions.logout(token)


async def test_a_token_that_was_not_given_opens_nothing(system: PayCenterSystem) -> None:
    """Session fixation: a login never takes over a token, and each login has a new one."""
    services = system.services
    one = await person(system, "anne")
    for token in ("", "x", "x" * 43, "é" * 43, "\0" * 43, "x" * 10_000):
        assert await services.sessions.session(token) is None
    first, second = await log_in(services, one), await log_in(services, one)
    assert first != second
    assert len(base64.urlsafe_b64decode(first + "=")) == 32
    assert csrf_token(first) != csrf_token(second)


@pytest.mark.parametrize(("column", "minutes"), [("used_time", 30), ("create_time", 12 * 60)], ids=["idle", "old"])
async def test_a_session_ends(system: PayCenterSystem, column: str, minutes: int) -> None:
    services = system.services
    token = await log_in(services, await person(system, "anne"))
    await system.rows(f"UPDATE pay_session SET {column} = now() - make_interval(secs => {minutes * 60 - 30})")
    assert await services.sessions.session(token) is not None
    await system.rows(f"UPDATE pay_session SET {column} = now() - make_interval(secs => {minutes * 60 + 1})")
    assert await services.sessions.session(token) is None
    assert await services.sessions.list_all(OPERATOR) == []


async def test_a_use_prolongs_a_session(system: PayCenterSystem) -> None:
    token = await log_in(system.services, await person(system, "anne"))
    await system.rows("UPDATE pay_session SET used_time = now() - interval '29 minutes'")
    assert await system.services.sessions.session(token) is not None
    assert await system.value("SELECT used_time > now() - interval '1 minute' FROM pay_session WHERE revoke_time IS NULL")


async def test_a_session_that_is_revoked_in_another_process(system: PayCenterSystem) -> None:
    one, other = await person(system, "anne", Role.VIEWER), await person(system, "bert", Role.VIEWER)
    token = await log_in(system.services, one)
    mine = (await session_of(system.services, token)).number
    async with open_services(system.settings, clock=system.clock) as elsewhere:
        assert await elsewhere.sessions.session(token) is not None
        for number in (mine, "x", "S01M8ADF7E2FWHB3BMKC55MZ5SM"):
            with pytest.raises(PayCenterError) as info:
                await elsewhere.sessions.revoke_own(other.caller, number)
            assert info.value.reason == "SESSION_NOT_FOUND"
        assert await system.services.sessions.session(token) is not None
        await elsewhere.sessions.revoke(OPERATOR, mine)
    assert await system.services.sessions.session(token) is None


async def test_wrong_logins_are_all_answered_alike(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne", Role.VIEWER)
    disabled = await person(system, "bert", Role.VIEWER)
    await services.operators.update(OPERATOR, disabled.number, {"enabled": False})
    await services.credentials.create_operator("no password")
    before = await audit_end(system)
    for name, password in (("anne", "x"), ("nobody", PASSWORD), ("bert", PASSWORD), ("no password", ""), ("", ""),
                           ("a\0b" * 99, "x"), ("anne", PASSWORD + "x" * 5000), ("\ud800", "\ud800")):  # fmt: skip
        assert await services.sessions.login(name, password, "", PEER, "a\0" * 500) == LoginProblem.WRONG
    assert await services.sessions.session(await log_in(services, one))
    rows = await audited(system, before)
    assert [row.outcome for row in rows] == ["CREDENTIALS_INVALID"] * 8 + ["OK"]
    assert {row.act for row in rows} == {"login"}
    assert not any(PASSWORD in str(row) for row in rows)


async def test_an_unknown_name_costs_as_much_as_a_known_one(system: PayCenterSystem) -> None:
    """The work is counted instead of the time: each login computes one hash."""
    services = system.services
    await person(system, "anne", Role.VIEWER)
    counting = services.context.signers = Counting(1)
    for name in ("anne", "nobody"):
        counting.count = 0
        await services.sessions.login(name, "wrong", "", PEER, "")
        assert counting.count == 1, name


@pytest.mark.parametrize("name", ["anne", "nobody"])
async def test_brute_force_from_many_tasks(system: PayCenterSystem, name: str) -> None:
    """Many logins at the same time check no more passwords than one after the other, whether there is the name or not."""
    services = system.services
    await person(system, "anne", Role.VIEWER)
    answers = await asyncio.gather(
        *(services.sessions.login(name, f"guess {n}", "", f"203.0.113.{n}", "") for n in range(_MOST_WAITING))
    )
    assert answers.count(LoginProblem.WRONG) == 5
    assert answers.count(LoginProblem.TOO_MANY) == _MOST_WAITING - 5
    # The right password is refused too while the name has to wait.
    assert await services.sessions.login(name, PASSWORD, "", PEER, "") is LoginProblem.TOO_MANY
    waits = []
    for _ in range(7):
        await unblock(system)
        assert await services.sessions.login(name, "guess", "", PEER, "") is LoginProblem.WRONG
        await forget_peer(system)
        query = "SELECT extract(epoch FROM blocked_until - update_time) FROM pay_login_failure WHERE subject = $1"
        waits.append(round(await system.value(query, f"name:{name}")))
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    # An hour without a failure forgets them.
    await system.rows("UPDATE pay_login_failure SET update_time = now() - interval '61 minutes', blocked_until = now()")
    assert await services.sessions.login(name, "guess", "", PEER, "") is LoginProblem.WRONG
    assert await system.value("SELECT failures FROM pay_login_failure WHERE subject = $1", f"name:{name}") == 1


async def test_guesses_of_many_names_from_one_peer(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne", Role.VIEWER)
    answers = []
    for number in range(33):
        answers.append(await services.sessions.login(f"name {number}", "guess", "", PEER, ""))
    assert answers[-1] is LoginProblem.TOO_MANY
    assert answers[:31] == [LoginProblem.WRONG] * 31
    assert await log_in(services, one) is LoginProblem.TOO_MANY
    token = await log_in(services, one, peer="203.0.113.99")
    assert await services.sessions.session(token) is not None


async def test_a_login_that_succeeds_forgets_the_failures_of_its_name(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne", Role.VIEWER)
    for _ in range(3):
        for _ in range(4):
            assert await log_in(services, one, password="wrong") is LoginProblem.WRONG
        assert await services.sessions.session(await log_in(services, one)) is not None
    assert await system.value("SELECT count(*) FROM pay_login_failure WHERE subject = 'name:anne'") == 0
    # Own logins do not use up the failures of others behind the same address.
    assert await system.value(f"SELECT failures FROM pay_login_failure WHERE subject = 'peer:{PEER}'") == 12


async def test_logins_that_nobody_can_check_soon_are_refused(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne", Role.VIEWER)
    names = [f"name {number}" for number in range(_MOST_WAITING * 2)]
    answers = await asyncio.gather(
        *(services.sessions.login(name, "guess", "", f"198.51.100.{number}", "") for number, name in enumerate(names))
    )
    assert set(answers) == {LoginProblem.WRONG, LoginProblem.TOO_MANY}
    assert answers.count(LoginProblem.WRONG) >= _MOST_WAITING
    assert await services.sessions.session(await log_in(services, one)) is not None


async def test_a_code_is_valid_once(system: PayCenterSystem) -> None:
    """TOTP replay: the code of a step opens one session, also from two tasks at once, and an earlier step none any more."""
    services = system.services
    one = await person(system, "anne", Role.VIEWER)
    secret, _, step = await with_totp(system, one)
    assert await log_in(services, one) is LoginProblem.WRONG
    assert await log_in(services, one, code="000000") is LoginProblem.WRONG
    # Its code has confirmed the authenticator, and was used with that.
    assert await log_in(services, one, code=totp_code(secret, step)) is LoginProblem.WRONG
    await system.rows("DELETE FROM pay_login_failure")
    following = totp_code(secret, step + 1)
    answers = await asyncio.gather(*(log_in(services, one, code=following) for _ in range(3)))
    # The others are wrong, or have to wait because the first ones failed.
    assert sum(not isinstance(answer, LoginProblem) for answer in answers) == 1
    await system.rows("DELETE FROM pay_login_failure")
    assert await log_in(services, one, code=following) is LoginProblem.WRONG
    assert await log_in(services, one, code=totp_code(secret, step)) is LoginProblem.WRONG
    for far in (step - 5, step + 5):
        assert await log_in(services, one, code=totp_code(secret, far)) is LoginProblem.WRONG
    sealed = await system.value("SELECT totp_secret FROM pay_operator WHERE name = 'anne'")
    assert base64.b32encode(secret).decode() not in sealed


async def test_a_right_code_does_not_replace_the_password(system: PayCenterSystem) -> None:
    one = await person(system, "anne", Role.VIEWER)
    secret, codes, step = await with_totp(system, one)
    for code in (totp_code(secret, step + 1), codes[0]):
        assert await log_in(system.services, one, code=code, password="wrong") is LoginProblem.WRONG
    assert await system.services.sessions.session(await log_in(system.services, one, code=totp_code(secret, step + 1)))


async def test_a_recovery_code_is_valid_once(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne", Role.VIEWER)
    _, codes, _ = await with_totp(system, one)
    assert len(set(codes)) == 8
    for code in codes[:2]:
        assert await services.sessions.session(await log_in(services, one, code=code.upper())) is not None
        assert await log_in(services, one, code=code) is LoginProblem.WRONG
    stored = await system.value("SELECT recovery_codes FROM pay_operator WHERE name = 'anne'")
    assert len(stored) == 6
    assert not set(codes) & set(stored)


async def test_an_authenticator_needs_the_password_and_a_right_code(system: PayCenterSystem) -> None:
    services = system.services
    one = await person(system, "anne", Role.VIEWER)
    with pytest.raises(PayCenterError) as info:
        await services.totp.begin(one.caller, "wrong")
    assert [violation.field for violation in info.value.violations] == ["password"]
    await services.totp.begin(one.caller, PASSWORD)
    with pytest.raises(PayCenterError) as info:
        await services.totp.confirm(one.caller, "000000")
    assert [violation.field for violation in info.value.violations] == ["code"]
    # One that is not confirmed is not asked for.
    assert await services.sessions.session(await log_in(services, one)) is not None
    await with_totp(system, one)
    with pytest.raises(PayCenterError):
        await services.totp.remove(one.caller, "wrong")
    await services.totp.remove(one.caller, PASSWORD)
    assert await services.sessions.session(await log_in(services, one)) is not None


async def test_the_way_back_in_on_the_command_line(system: PayCenterSystem, master_key_file: Path) -> None:
    import os
    import subprocess
    import sys

    one = await person(system, "anne")
    await with_totp(system, one)
    token = await log_in(system.services, one, code="x")
    assert token is LoginProblem.WRONG
    environment = {**os.environ, "PAYCENTER_DATABASE_URL": system.database_url}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "paycenter_server.cli", "operator", "anne", "--password"], env=environment,
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    name, password, _ = done.stdout.splitlines()
    assert name == "name: anne"
    current = await session_of(system.services, await log_in(system.services, one, password=password.removeprefix("password: ")))
    assert current.must_change_password
    assert current.role is Role.ADMIN
