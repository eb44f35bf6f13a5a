"""`paycenter order show`, `paycenter books check` and `paycenter case …`, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.refunds import NewRefund
from support.cases import hold, last_case, late, run_refund_job, set_app
from support.commands import run_command
from support.system import OPERATOR, PayCenterSystem

Run = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


@pytest.fixture
def run(system: PayCenterSystem, master_key_file: Path, tmp_path: Path) -> Run:
    environment = {
        **os.environ, "PAYCENTER_MODE": "development", "PAYCENTER_DATABASE_URL": system.database_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file), "PAYCENTER_ORDER_CALLBACK_URL": system.settings.order_callback_url,
        "PAYCENTER_REFUND_CALLBACK_URL": system.settings.refund_callback_url,
    }  # fmt: skip

    async def typed(*words: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(run_command, words, environment, tmp_path)

    return typed


async def test_an_order_is_shown_by_either_number(system: PayCenterSystem, run: Run) -> None:
    order = await system.paid("wx_native")
    shown = await run("order", "show", order.number)
    assert shown.returncode == 0, shown
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"{order.number} SUCCESS, CNY 100 (minor units), paid 100")
    assert any("ATTEMPT" in line and "paid  [WAITING → SUCCESS]  100  by CALLBACK C" in line for line in lines), shown.stdout
    assert lines[-1].startswith("next:")
    assert "delivery" in lines[-1]
    assert "weixin://" not in shown.stdout
    again = await run("order", "show", order.merchant_order_id, "--app", "shop", "--evidence")
    assert "weixin://" in again.stdout
    missing = await run("order", "show", "nothing", "--app", "shop")
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
    assert "There is no such pay order" in missing.stderr


async def test_the_books_check_ends_with_1_if_there_is_a_difference(system: PayCenterSystem, run: Run) -> None:
    orders = [await system.paid("mock") for _ in range(2)]
    clean = await run("books", "check", "--batch", "1")
    assert (clean.returncode, clean.stdout) == (0, "2 orders compared, 0 with a difference.\n")
    assert f"up to {orders[0].number}" in clean.stderr
    system.books_are_checked = False
    await system.rows("UPDATE pay_order SET paid_amount = 101 WHERE id = $1", orders[1].id)
    found = await run("books", "check", "--after", orders[0].number)
    assert found.returncode == 1
    assert found.stdout.splitlines() == [
        f"{orders[1].number}: paid is 101 and its events give 100 (minor units)", "1 orders compared, 1 with a difference.",
    ]  # fmt: skip
    assert "1 cases opened" in found.stderr
    assert (await last_case(system)).kind.value == "BOOKS_DIFFER"
    again = await run("books", "check", "--no-cases")
    assert (again.returncode, "cases opened" in again.stderr) == (1, False)
    wrong = await run("books", "check", "--after", "P1")
    assert (wrong.returncode, "is not the number of an order" in wrong.stderr) == (2, True)


async def test_cases_are_listed_shown_and_decided(system: PayCenterSystem, run: Run) -> None:
    await hold(system)
    order, case = await late(system)
    listed = await run("case", "list", "--kind", "late_payment", "--app", "shop", "--amount-from", "100")
    assert listed.returncode == 0, listed
    title, row = listed.stdout.splitlines()
    assert title.split() == ["number", "opened", "kind", "state", "app", "amount", "refund", "assignee"]
    assert row.startswith(case.number)
    assert "LATE_PAYMENT  OPEN   shop  CNY 100" in row
    assert len((await run("case", "list", "--amount-to", "99")).stdout.splitlines()) == 1
    shown = await run("case", "show", case.number)
    assert "possible:  REFUND, ACCEPT, CLOSE" in shown.stdout
    assert order.number in shown.stdout
    refused = await run("case", "decide", case.number, "close")
    assert (refused.returncode, "Traceback" in refused.stderr, "reason" in refused.stderr) == (1, False, True)
    decided = await run("case", "decide", case.number, "refund", "--reason", "the payer called", "--json")
    assert decided.returncode == 0, decided
    answer = json.loads(decided.stdout)
    assert (answer["state"], answer["decided_by"], answer["pay_refund_state"]) == ("REFUNDING", "command line", "WAITING")
    await run_refund_job(system)
    assert (await run("case", "list", "--json")).stdout == ""
    every = [json.loads(line) for line in (await run("case", "list", "--all", "--json")).stdout.splitlines()]
    assert [(item["id"], item["resolution"]) for item in every] == [(case.number, "refunded")]
    told = json.loads((await run("case", "show", case.number, "--json")).stdout)
    assert [entry["event"] for entry in told["entries"] if entry["subject"] == "CASE"] == ["LATE_PAYMENT", "refund", "resolve"]
    late_again = await run("case", "decide", case.number, "close", "--reason", "x")
    assert (late_again.returncode, "is RESOLVED" in late_again.stderr) == (1, True)
    missing = await run("case", "show", "nothing")
    assert (missing.returncode, "There is no such case" in missing.stderr) == (1, True)


async def test_the_command_line_is_one_operator(system: PayCenterSystem, run: Run) -> None:
    await hold(system)
    await set_app(system, case_decision_limit=0)
    _, case = await late(system)
    proposed = await run("case", "decide", case.number, "refund")
    assert "proposed:  REFUND by command line" in proposed.stdout
    again = await run("case", "decide", case.number, "refund")
    assert (again.returncode, "another operator" in again.stderr) == (1, True)
    assert "OPEN (proposed: REFUND)" in (await run("case", "list")).stdout


async def test_acts_that_wait_are_listed_approved_and_refused(system: PayCenterSystem, run: Run) -> None:
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    numbers = []
    for number in ("R1", "R2"):
        with pytest.raises(PayCenterError) as info:
            await system.services.refunds.create(OPERATOR, NewRefund("shop", order.merchant_order_id, number, 60, "x"))
        numbers.append(info.value.metadata["pay_approval_id"])
    listed = await run("approval", "list")
    assert (listed.returncode, [number in listed.stdout for number in numbers]) == (0, [True, True])
    approved = json.loads((await run("approval", "approve", numbers[0], "--reason", "seen")).stdout)
    assert (approved["state"], approved["requested_by"], approved["decided_by"]) == ("APPROVED", "test", "command line")
    refused = json.loads((await run("approval", "refuse", numbers[1], "--reason", "no")).stdout)
    assert refused["state"] == "REFUSED"
    assert await system.value("SELECT array_agg(merchant_refund_no) FROM pay_refund") == ["R1"]
    assert (await run("approval", "list", "--json")).stdout == ""
    again = await run("approval", "approve", numbers[1])
    assert (again.returncode, "does not wait any more" in again.stderr) == (1, True)


async def test_the_audit_is_listed_and_verified(system: PayCenterSystem, run: Run) -> None:
    await system.services.apps.update(OPERATOR, "shop", {"remark": "x"})
    listed = await run("audit", "list", "--act", "PayAppService/UpdatePayApp", "--limit", "1")
    assert listed.returncode == 0, listed
    assert 'test  PayAppService/UpdatePayApp  shop  OK  before {"remark": ""}  after {"remark": "x"}' in listed.stdout
    verified = await run("audit", "verify", "--batch", "2")
    assert verified.returncode == 0, verified
    anchor = verified.stdout.split("Anchor: ")[1].strip()
    after = await run("audit", "verify", "--after", anchor)
    assert (after.returncode, after.stdout) == (0, f"0 rows verified. Anchor: {anchor}\n")
    number, _, hashed = anchor.partition(":")
    for wrong in (f"{number}:{'0' * len(hashed)}", f"{int(number) + 1}:{hashed}"):
        broken = await run("audit", "verify", "--after", wrong)
        assert broken.returncode == 1
        assert broken.stdout.startswith("BROKEN: row ")
    assert (await run("audit", "verify", "--after", "nothing")).returncode == 2
