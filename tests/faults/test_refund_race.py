"""40 concurrent refunds of 30 on a paid 100, from separate processes, 20 rounds: never more than was paid."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from support.system import PayCenterSystem

PROCESSES, EACH, ROUNDS = 4, 10, 20
SCRIPT = Path(__file__).with_name("refund_racer.py")


async def test_separate_processes_never_refund_too_much(system: PayCenterSystem, master_key_file: Path) -> None:
    orders = [await system.paid("mock", amount=100) for _ in range(ROUNDS)]
    environment = {
        **os.environ,
        "PAYCENTER_MODE": "development",
        "PAYCENTER_DATABASE_URL": system.database_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file),
        "PAYCENTER_ORDER_CALLBACK_URL": system.settings.order_callback_url,
        "PAYCENTER_REFUND_CALLBACK_URL": system.settings.refund_callback_url,
        "PAYCENTER_DATABASE_POOL": "4",
    }
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), str(number), str(EACH), *(order.merchant_order_id for order in orders),
            env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert await racer.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    counts = [json.loads(output) for output, _ in outputs]
    for index, order in enumerate(orders):
        after = await system.read(order)
        assert after.refunded_amount + after.reserved_amount == 90, index
        assert await system.value("SELECT sum(amount) FROM pay_refund WHERE order_id = $1 AND state <> 'FAILURE'", order.id) == 90
        assert sum(count[index] for count in counts) == 3
