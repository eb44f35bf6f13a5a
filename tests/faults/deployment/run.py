"""The fault run: payments of every channel code on a deployment of real processes, while everything fails; then the books.

    python -m faults.deployment.run --seed 7 --orders 400        (with tests/ on PYTHONPATH)

It prints its seed and ends with 0 only if nothing was lost, doubled or orphaned.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from faults.deployment.books import Report, compare, settle
from faults.deployment.faults import Trouble
from faults.deployment.processes import Deployment, deployed
from faults.deployment.shop import Receiver, Shop, gathered
from paycenter.aio import AsyncPayCenter
from paycenter.errors import PayCenterError
from paycenter.notifications import NotificationVerifier
from paycenter_server.bootstrap import Services, open_services
from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.services.apps import NewApp
from paycenter_server.services.channels import NewChannel
from support.system import OPERATOR, free_port
from support.waiting import pause

APP = "shop"
EXTRAS = {
    "wx_pub": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
    "wx_lite": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
    "wx_bar": {"auth_code": "134567890123456789"},
    "alipay_lite": {"buyer_open_id": "074a1CcTG1LelxKe4xQC0zgNdId0nxi95b5lsNpazWYoCo5"},
    "alipay_bar": {"auth_code": "281234567890123456"},
}
CODES = (
    "wx_native", "wx_pub", "wx_lite", "wx_app", "wx_wap", "wx_bar", "alipay_qr", "alipay_pc", "alipay_wap", "alipay_app",
    "alipay_lite", "alipay_bar", "mock",
)  # fmt: skip
BEHAVIOURS, WEIGHTS = ("pays", "pays twice", "never pays", "pays late", "pays too much", "closes"), (70, 8, 6, 6, 4, 6)
SHORT = timedelta(seconds=62)  # WeChat Pay extends a shorter expiry to one minute


@dataclass
class Payer:
    """Opens what a payer opens, and pays at the simulator that knows the number."""

    deployment: Deployment
    paid: list[str] = field(default_factory=list)

    async def open(self, code: str, number: str, shown: str) -> None:
        """The page, the app or the QR code of Alipay, without which it has no trade."""
        session = self.deployment.session
        if code in ("alipay_pc", "alipay_wap"):
            await session.get(shown)
        elif code == "alipay_qr":
            for merchant in self.deployment.merchants:
                await session.get(f"{merchant.simulator.base}/cashier/{number}")
        elif code == "alipay_app":
            for merchant in self.deployment.merchants:
                await session.post(f"{merchant.simulator.base}/simulator/alipay/app", data=shown.encode())

    async def pay(self, number: str, **options: Any) -> bool:
        """Whether the channel took the money. False also if it was killed meanwhile: then its trade says what happened."""
        for merchant in self.deployment.merchants:
            with contextlib.suppress(AssertionError, OSError, TimeoutError, aiohttp.ClientError):
                await merchant.simulator.pay(number, **options)
                self.paid.append(number)
                return True
        return False


@dataclass
class Campaign:
    """A shop with an app over a deployment."""

    deployment: Deployment
    services: Services
    shop: Shop
    receiver: Receiver
    payer: Payer
    random: random.Random

    async def order(self, index: int) -> None:
        """One order from its creation to its last refund, as its shop sees it."""
        chance = random.Random(self.random.random())
        code, behaviour = chance.choice(CODES), chance.choices(BEHAVIOURS, WEIGHTS)[0]
        merchant_order_id, amount = f"M{index:06d}", chance.randint(1, 100_000)
        expire = SHORT if behaviour in ("never pays", "pays late") else timedelta(minutes=30)
        created = await self.shop.persist(
            "create",
            lambda client: client.create_order(
                merchant_order_id=merchant_order_id, subject="一杯咖啡", amount=amount, user_ip="203.0.113.9", expire_in=expire
            ),
        )
        if isinstance(created, PayCenterError):
            self.shop.unexpected.append(f"create {merchant_order_id}: {created}")
            return
        numbers = [await self._submit(created, code)]
        if behaviour == "pays twice":
            numbers.append(await self._submit(created, chance.choice(CODES[:-1])))
        if behaviour in ("closes", "pays late"):
            await self.shop.persist("close", lambda client: client.close_order(created))
        if behaviour != "never pays":
            options = {"amount": amount + 7} if behaviour == "pays too much" else {}
            for number in numbers:
                if number:
                    await self.payer.pay(number, **options, force=behaviour == "pays late")
        for turn in range(chance.choice((0, 0, 1, 1, 2, 3))):
            await pause(chance.random())
            part = chance.randint(1, amount)
            await self.shop.persist(
                "refund",
                lambda client, turn=turn, part=part: client.create_refund(  # type: ignore[misc]
                    merchant_order_id=merchant_order_id, merchant_refund_no=f"R{index:06d}-{turn}", amount=part, reason="退货"
                ),
                tries=12,
            )

    async def _submit(self, order: Any, code: str) -> str:
        """The out_trade_no of what the payer was shown; empty if nothing was."""
        answer = await self.shop.persist(
            "submit", lambda client: client.submit_order(order, code, EXTRAS.get(code, {}), timeout=8), tries=12
        )
        if isinstance(answer, PayCenterError):
            return ""
        number: str = answer.out_trade_no
        with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError):  # the simulator is killed, too
            await self.payer.open(code, number, answer.display_content)
        return number


@asynccontextmanager
async def campaign(deployment: Deployment, chance: random.Random, trouble: float) -> AsyncIterator[Campaign]:
    """An app with a channel for each code at the first merchant, its receiver, and clients of both servers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/notifications"
    async with open_services(deployment.settings) as services:
        created = await services.apps.create(
            OPERATOR, NewApp(APP, "Shop", "", url, url, SurplusPolicy.REFUND, NotificationSuccess.HTTP_2XX)
        )
        for merchant in reversed(deployment.merchants):
            for code in ("wx_native", "wx_wap"):
                family, config = merchant.configs[code]
                merchant.configs[code] = family, {**config, "use_platform_certificates": "true"}
        for code in CODES:
            family, config = deployment.merchants[0].configs[code]
            await services.channels.create(OPERATOR, NewChannel(APP, code, 6000, "", family, config, enabled=True))
        receiver = Receiver(NotificationVerifier(created.notification_secret, tolerance=600), chance, trouble)
        app = web.Application()
        app.router.add_post("/notifications", receiver.receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        clients = [
            AsyncPayCenter(
                f"127.0.0.1:{deployment.ports[name]}", key_id=created.key_id, key_secret=created.key_secret, timeout=8, attempts=2
            )
            for name in ("serve-1", "serve-2")
        ]
        try:
            yield Campaign(deployment, services, Shop(clients), receiver, Payer(deployment), chance)
        finally:
            for client in clients:
                await client.close()
            await runner.cleanup()


async def fault_run(folder: Path, seed: int, orders: int, *, step: float = 1.0, at_once: int = 12) -> Report:
    """Run so many orders with a fault every `step` seconds, wait until everything is settled, and compare all books."""
    chance = random.Random(seed)
    began = time.monotonic()
    async with deployed(folder) as deployment, campaign(deployment, chance, 0.05) as running:
        trouble = Trouble(deployment, running.services, random.Random(seed + 1), APP)
        causing = asyncio.create_task(trouble.run(step))
        await gathered([running.order(index) for index in range(orders)], at_once)
        trouble.stopped = True
        await causing
        await trouble.once_each()
        await trouble.end()
        running.receiver.trouble = 0.0
        await settle(deployment)
        report = await compare(deployment, running.receiver, running.payer.paid, running.shop.unexpected)
        report.seed, report.seconds = seed, time.monotonic() - began
        report.faults = dict(trouble.counts)
        return report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(0, 10**6))
    parser.add_argument("--orders", type=int, default=400)
    parser.add_argument("--step", type=float, default=1.0, help="seconds between faults")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(fault_run(Path(folder), options.seed, options.orders, step=options.step))
    print(report)
    sys.exit(0 if report.good else 1)


if __name__ == "__main__":
    main()
