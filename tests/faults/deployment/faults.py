"""What goes wrong while a deployment works: killed processes, killed servers, channels that hang, lie, double and forget."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from typing import Any

from faults.deployment.processes import Deployment
from paycenter_server.bootstrap import Services
from paycenter_server.services.paging import Pager
from support.merchants import change_own_keys
from support.system import OPERATOR
from support.waiting import pause

# Of each rule: the api, the fault, and its options. Each strikes once to three times.
RULES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("*", "timeout_before_commit", {"seconds": 4}),
    ("*", "timeout_after_commit", {"seconds": 4}),
    ("*", "error_before_commit", {}),
    ("*", "error_after_commit", {}),
    ("*", "rate_limit_after_commit", {}),
    ("*", "reset", {}),
    ("*", "reset_before_commit", {}),
    ("*", "http_502", {}),
    ("*", "bad_signature", {}),
    ("*", "unsigned", {}),
    ("wx.refund", "timeout_after_commit", {"seconds": 4}),
    ("wx.refund", "refund_pending", {"seconds": 3}),
    ("wx.refund", "not_enough", {}),
    ("wx.refund", "refund_closed", {}),
    ("wx.refund_query", "error_before_commit", {}),
    ("wx.query", "timeout_before_commit", {"seconds": 4}),
    ("wx.query", "wrong_amount", {}),
    ("wx2.refund", "reset", {}),
    ("wx2.orderquery", "bad_signature", {}),
    ("alipay.trade.refund", "timeout_after_commit", {"seconds": 4}),
    ("alipay.trade.refund", "refund_pending", {"seconds": 3}),
    ("alipay.trade.refund", "not_enough", {}),
    ("alipay.trade.query", "error_after_commit", {}),
    ("alipay.trade.pay", "reset", {}),
    # It forgets what it has.
    ("wx.query", "decline", {"code": "ORDER_NOT_EXIST"}),
    ("wx.refund_query", "decline", {"code": "RESOURCE_NOT_EXISTS"}),
    ("wx2.orderquery", "decline", {"code": "ORDERNOTEXIST"}),
    ("alipay.trade.query", "decline", {"code": "ACQ.TRADE_NOT_EXIST"}),
    ("alipay.trade.refund", "decline", {"code": "ACQ.TRADE_NOT_EXIST"}),
    ("notify", "drop", {}),
    ("notify", "duplicate", {}),
    ("notify", "slow", {"seconds": 2}),
    ("notify", "late", {"seconds": 3}),
    ("notify", "reordered", {"seconds": 3}),
    ("notify", "bad_signature", {}),
)
KINDS = ("process", "rules", "postgres", "redis", "simulator", "account", "keys", "own_keys")


class Trouble:
    """Causes one fault after another until it is told to stop. `counts`: how often each kind occurred."""

    def __init__(self, deployment: Deployment, services: Services, chance: random.Random, app_key: str) -> None:
        self._deployment = deployment
        self._services = services
        self._random = chance
        self._app_key = app_key
        self.counts: Counter[str] = Counter()
        self.stopped = False
        self._at = [0, 0]

    async def run(self, step: float) -> None:
        """`step`: seconds between faults, on average."""
        while not self.stopped:
            await pause(self._random.uniform(0.5, 1.5) * step)
            for name in self._deployment.names:
                self._deployment.revive(name)
            kind = self._random.choices(KINDS, (4, 8, 1, 1, 1, 1, 1, 2))[0]
            await getattr(self, f"_{kind}")()
            self.counts[kind] += 1

    async def once_each(self) -> None:
        """Each kind that did not occur yet."""
        for kind in KINDS:
            if not self.counts[kind]:
                await getattr(self, f"_{kind}")()
                self.counts[kind] += 1

    async def end(self) -> None:
        """No more faults of the channels; everything runs."""
        self.stopped = True
        for merchant in self._deployment.merchants:
            await self._deployment.session.delete(f"{merchant.simulator.base}/simulator/faults")
        for name in self._deployment.ports:
            if self._deployment.pid(name) is None:
                self._deployment.start(name)
        await self._deployment.ready()

    async def _process(self) -> None:
        name = self._random.choice(self._deployment.names)
        self._deployment.kill(name)
        await pause(self._random.uniform(0, 0.5))
        self._deployment.start(name)

    async def _rules(self) -> None:
        merchant = self._random.choice(self._deployment.merchants)
        rules = [
            {"api": api, "fault": fault, "times": self._random.randint(1, 3), "skip": self._random.randint(0, 2), **options}
            for api, fault, options in self._random.sample(RULES, 3)
        ]
        await merchant.simulator.post("/simulator/faults", rules)

    async def _postgres(self) -> None:
        await self._deployment.kill_postgres()

    async def _redis(self) -> None:
        if (pid := self._deployment.servers.redis_pid) is not None:
            os.kill(pid, signal.SIGKILL)
        self._deployment.servers.stop_redis()
        await pause(self._random.uniform(0, 1))
        self._deployment.servers.start_redis()

    async def _simulator(self) -> None:
        """The channel is away for a moment; it keeps its trades, as a channel does."""
        name = self._random.choice(("simulator-1", "simulator-2"))
        self._deployment.kill(name)
        await pause(self._random.uniform(0, 0.5))
        self._deployment.start(name)
        await self._deployment.ready()

    async def _account(self) -> None:
        """The channels of a family move to the other merchant's account, or back."""
        family = self._random.choice((0, 1))
        self._at[family] = 1 - self._at[family]
        merchant = self._deployment.merchants[self._at[family]]
        prefix = ("wx_", "alipay_")[family]
        page = await self._services.channels.search(OPERATOR, self._app_key, Pager(200, ""))
        for view in page.items:
            code = view.channel.code
            if code.startswith(prefix):
                await self._services.channels.update(OPERATOR, view.channel.number, {}, *merchant.configs[code])

    async def _keys(self) -> None:
        """The channel signs with its next certificate from now on, or with its first one again."""
        merchant = self._random.choice(self._deployment.merchants)
        channel, done = self._random.choice(("wechatpay", "alipay")), self._random.choice((True, False))
        await merchant.simulator.post("/simulator/rotation", {"channel": channel, "done": done})

    async def _own_keys(self) -> None:
        """A merchant changes keys of its own, with overlap: first in the channel's console, then at the account."""
        merchant, family = self._random.choice(self._deployment.merchants), self._random.choice(("wechatpay", "alipay"))
        await change_own_keys(self._services, merchant.simulator, merchant.configs, family)
