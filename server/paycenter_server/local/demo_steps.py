"""The demonstration: one payment through WeChat Pay and one through Alipay, from order to refund, each step checked."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from paycenter_server.local.demo_output import HumanOutput, JsonOutput, Output, Step

if TYPE_CHECKING:
    import aiohttp
    from paycenter import AsyncPayCenter, PayOrder, PayRefund

CHANNELS = ("wx_native", "alipay_qr")
AMOUNT, REFUND = 1234, 234
_STEP_SECONDS = 10.0
_LOOK_EVERY = 0.03

_T = TypeVar("_T")


class CheckError(Exception):
    """A step failed; the text says what was expected and what was found."""


class _StepFailedError(Exception):
    """Ends the payment of one channel; the step has been reported."""


@dataclass(frozen=True, slots=True)
class DevFile:
    """What `paycenter seed` wrote to dev.json."""

    grpc: str
    simulator: str
    shop: str
    key_id: str
    key_secret: str

    @classmethod
    def read(cls, path: Path) -> DevFile:
        """Raises ClickException with what to do."""
        try:
            data = json.loads(path.read_text())
            addresses, app = data["addresses"], data["app"]
            return cls(addresses["grpc"], addresses["simulator"], addresses["shop"], app["key_id"], app["key_secret"])
        except OSError as error:
            hint = "start `paycenter dev` first, or name its file with --data-file"
            raise click.ClickException(f"{path}: {error.strerror or error}; {hint}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{path} is not what `paycenter dev` writes: {error!r}") from error


def run_demo_payments(data_file: Path, as_json: bool) -> int:
    """Make the payments on the running development system that `data_file` (dev.json) names; 0, or 1 if a step failed.

    Raises ClickException if the file cannot be used.
    """
    file = DevFile.read(data_file)
    output: Output = JsonOutput() if as_json else HumanOutput()
    return asyncio.run(_run_payments(file, output))


async def _run_payments(file: DevFile, output: Output) -> int:
    """The exit code. The payment of each channel is made, also after another has failed."""
    import aiohttp
    from paycenter import AsyncPayCenter

    started = time.perf_counter()
    failed: list[Step] = []
    limits = aiohttp.ClientTimeout(total=_STEP_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=limits) as http,
        AsyncPayCenter(file.grpc, key_id=file.key_id, key_secret=file.key_secret, timeout=_STEP_SECONDS) as pay,
    ):
        for channel in CHANNELS:
            output.begin(channel)
            try:
                await _Payment(file, pay, http, output, failed, channel).run()
            except _StepFailedError:
                continue
    output.end(failed, (time.perf_counter() - started) * 1000)
    return 1 if failed else 0


@dataclass(slots=True)
class _Done:
    """What a step found out."""

    text: str
    detail: dict[str, Any]
    qr: str = ""


class _Payment:
    """One payment through one channel."""

    def __init__(
        self,
        file: DevFile,
        pay: AsyncPayCenter,
        http: aiohttp.ClientSession,
        output: Output,
        failed: list[Step],
        channel: str,
    ) -> None:
        self._file = file
        self._pay = pay
        self._http = http
        self._output = output
        self._failed = failed
        self._channel = channel
        self._number = f"demo-{channel}-{secrets.token_hex(6)}"
        self._order: PayOrder
        self._refund: PayRefund
        self._out_trade_no = ""

    async def run(self) -> None:
        """Every step in turn."""
        await self._step("created", self._create)
        await self._step("submitted", self._submit)
        await self._step("paid", self._pay_at_simulator)
        await self._step("callback", self._wait_for_callback)
        await self._step("order_success", self._check_order)
        await self._step("notified", lambda: self._wait_for_notification("pay_order.success", AMOUNT))
        await self._step("refunded", self._create_refund)
        await self._step("refund_success", self._wait_for_refund)
        await self._step("refund_notified", lambda: self._wait_for_notification("pay_refund.success", REFUND))

    async def _step(self, name: str, work: Callable[[], Awaitable[_Done]]) -> None:
        import aiohttp
        from paycenter import PayCenterError

        started = time.perf_counter()
        ok = False
        try:
            done = await asyncio.wait_for(work(), _STEP_SECONDS)
            ok = True
        except TimeoutError:
            done = _Done(f"did not happen within {_STEP_SECONDS:g} s", {})
        except PayCenterError as error:
            done = _Done(str(error), {"reason": str(error.reason), "metadata": error.metadata})
        except (CheckError, aiohttp.ClientError, OSError, ValueError, KeyError) as error:
            done = _Done(str(error) if isinstance(error, CheckError) else f"{type(error).__name__}: {error}", {})
        step = Step(self._channel, name, ok, (time.perf_counter() - started) * 1000, done.text, done.detail, done.qr)
        self._output.step(step)
        if not ok:
            self._failed.append(step)
            raise _StepFailedError

    async def _create(self) -> _Done:
        self._order = await self._pay.create_order(
            merchant_order_id=self._number,
            subject="A pot of tea",
            amount=AMOUNT,
            user_ip="127.0.0.1",
            expire_in=timedelta(minutes=15),
        )
        return _Done(f"{_yuan(AMOUNT)} yuan, order {self._order.id}", {"pay_order_id": self._order.id, "amount": AMOUNT})

    async def _submit(self) -> _Done:
        answer = await self._pay.submit_order(self._order, self._channel)
        _expect("something to show to the payer", bool(answer.display_content), answer.display_mode)
        self._out_trade_no = answer.out_trade_no
        content = answer.display_content
        return _Done(f"scan {content}", {"content": content, "out_trade_no": answer.out_trade_no}, qr=content)

    async def _pay_at_simulator(self) -> _Done:
        trade = await self._json("POST", f"{self._file.simulator}/simulator/pay/{self._out_trade_no}")
        _expect("the simulator to take the money", trade.get("paid") is True, trade.get("state"))
        return _Done(f"at the simulator, trade {trade['transaction_id']}", {"transaction_id": trade["transaction_id"]})

    async def _wait_for_callback(self) -> _Done:
        """No sync is asked for: only the channel's callback can make it SUCCESS this soon. The channel says that we took it."""
        from paycenter import OrderState

        self._order = await self._until(
            lambda: self._pay.get_order(id=self._order.id), lambda seen: seen.state != OrderState.WAITING
        )
        _expect("SUCCESS", self._order.state == OrderState.SUCCESS, OrderState.name(self._order.state))
        attempts = await self._until(self._accepted_callbacks, bool)
        return _Done(f"verified and acknowledged with {attempts[0]['status']}", {"sync": False, "answered": attempts[0]["status"]})

    async def _accepted_callbacks(self) -> list[dict[str, Any]]:
        trade = await self._json("GET", f"{self._file.simulator}/simulator/trades/{self._out_trade_no}")
        return [attempt for notification in trade["notifications"] for attempt in notification["attempts"] if attempt["accepted"]]

    async def _check_order(self) -> _Done:
        order = self._order
        _expect(f"{AMOUNT} fen paid", order.paid_amount == AMOUNT, order.paid_amount)
        _expect(f"paid through {self._channel}", order.channel_code == self._channel, order.channel_code)
        _expect(f"the number {self._out_trade_no}", order.out_trade_no == self._out_trade_no, order.out_trade_no)
        fee = (order.paid_amount * order.channel_fee_rate_ppm * 2 + 1_000_000) // 2_000_000
        _expect(f"a fee of {fee} fen", order.channel_fee_amount == fee, order.channel_fee_amount)
        rate = order.channel_fee_rate_ppm / 10_000
        detail = {"state": "SUCCESS", "paid_amount": order.paid_amount, "fee": fee, "channel_order_no": order.channel_order_no}
        return _Done(f"{_yuan(order.paid_amount)} yuan paid, fee {_yuan(fee)} yuan ({rate:g} %)", detail)

    async def _wait_for_notification(self, event: str, amount: int) -> _Done:
        async def look() -> list[dict[str, Any]]:
            query = {"type": event, "merchant_order_id": self._number}
            found = await self._json("GET", f"{self._file.shop}/notifications", params=query)
            return [one for one in found["notifications"] if one["verified"]]

        notification = (await self._until(look, bool))[0]
        _expect(f"an amount of {amount} fen", notification["data"]["amount"] == amount, notification["data"]["amount"])
        return _Done(f"{event}, signature verified by the shop", {"id": notification["id"], "type": event, "verified": True})

    async def _create_refund(self) -> _Done:
        self._refund = await self._pay.create_refund(
            merchant_order_id=self._number, merchant_refund_no=f"{self._number}-1", amount=REFUND, reason="One cup less"
        )
        return _Done(f"{_yuan(REFUND)} yuan, refund {self._refund.id}", {"pay_refund_id": self._refund.id, "amount": REFUND})

    async def _wait_for_refund(self) -> _Done:
        from paycenter import OrderState, RefundState

        refund = await self._until(lambda: self._pay.get_refund(id=self._refund.id), lambda seen: seen.state != RefundState.WAITING)
        why = f"{RefundState.name(refund.state)} {refund.channel_error_code} {refund.channel_error_message}".strip()
        _expect("SUCCESS", refund.state == RefundState.SUCCESS, why)
        order = await self._pay.get_order(id=self._order.id)
        _expect("the order in REFUND", order.state == OrderState.REFUND, OrderState.name(order.state))
        _expect(f"{REFUND} fen refunded", order.refunded_amount == REFUND, order.refunded_amount)
        left = order.paid_amount - order.refunded_amount
        return _Done(f"{_yuan(REFUND)} yuan back, {_yuan(left)} yuan stay", {"state": "SUCCESS", "refunded_amount": REFUND})

    async def _until(self, read: Callable[[], Awaitable[_T]], done: Callable[[_T], object]) -> _T:
        """Look until it is so; the step's time-out ends it."""
        while True:
            seen = await read()
            if done(seen):
                return seen
            await asyncio.sleep(_LOOK_EVERY)

    async def _json(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        async with self._http.request(method, url, **more) as response:
            text = await response.text()
            if response.status != 200:
                raise CheckError(f"{method} {url} answered {response.status}: {text[:200]}")
            document: dict[str, Any] = json.loads(text)
            return document


def _expect(what: str, holds: bool, found: object) -> None:
    if not holds:
        raise CheckError(f"expected {what}, found {found}")


def _yuan(fen: int) -> str:
    from paycenter.money import fen_to_yuan

    return fen_to_yuan(fen)
