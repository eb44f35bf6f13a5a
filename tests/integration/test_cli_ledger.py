"""`paycenter order show` and `paycenter books check`, as an operator types them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.system import PayCenterSystem

Run = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


@pytest.fixture
def run(system: PayCenterSystem, master_key_file: Path) -> Run:
    environment = {
        **os.environ, "PAYCENTER_MODE": "development", "PAYCENTER_DATABASE_URL": system.database_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file), "PAYCENTER_ORDER_CALLBACK_URL": system.settings.order_callback_url,
        "PAYCENTER_REFUND_CALLBACK_URL": system.settings.refund_callback_url,
    }  # fmt: skip

    async def typed(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "paycenter_server.cli", *words]
        return await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

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
    wrong = await run("books", "check", "--after", "P1")
    assert (wrong.returncode, "is not the number of an order" in wrong.stderr) == (2, True)
