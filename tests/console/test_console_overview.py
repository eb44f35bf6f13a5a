"""The overview and the health page: figures, what needs a person, queues, the check list."""

from __future__ import annotations

import asyncio
import json

import pytest
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.services.overview import DAYS, Overview
from paycenter_server.storage import overview as overview_rows
from support.console_rig import Browser
from support.system import OPERATOR
from support.waiting import eventually


async def test_the_figures_of_today_and_of_thirty_days(console: Browser) -> None:
    system = console.system
    for amount in (1000, 2500):
        order = await system.paid("mock", amount=amount)
    await system.order(amount=7)
    await system.decided(await system.refund(order, 500))
    failed = await system.order()
    with pytest.raises(PayCenterError):
        await system.submit(failed, "mock", behaviour="failure")

    async def summed() -> bool:
        return "¥35.00" in (await console.get("/")).text

    await eventually(summed)
    page = (await console.get("/")).check()
    for text in ("2 of 4 orders", "¥5.00", "1 refunds", "66.7 %"):
        assert text in page.text, text
    (chart,) = [values["data-chart"] for tag, values in page.elements if tag == "canvas"]
    shown = json.loads(chart)
    assert (len(shown["labels"]), shown["amounts"][-1], shown["counts"][-1]) == (DAYS, 35, 2)


async def test_days_that_take_too_long_are_left_for_the_next_call(console: Browser) -> None:
    system = console.system
    overview = Overview(system.services.context, system.services.identity)
    await system.paid("mock", amount=1000)
    none = await overview.days(OPERATOR, budget=-1)
    assert [day.figures for day in none] == [None] * DAYS
    every = await overview.days(OPERATOR, budget=60)
    assert all(day.figures is not None for day in every)
    assert every[-1].figures is not None
    assert every[-1].figures.amount == 1000
    # Several calls at once sum each day once.
    system.clock.advance(86_400)
    results = await asyncio.gather(*(overview.days(OPERATOR) for _ in range(4)))
    assert all(result[-2].figures is not None and result[-2].figures.amount == 1000 for result in results)


async def test_what_needs_a_person(console: Browser) -> None:
    system = console.system
    system.sender.default = DeliveryResponse(500, "")
    await system.paid("mock")
    await system.submit(await system.order(), "wx_native")
    await system.deliver()
    page = (await console.get("/")).check()
    assert page.links("/notifications?state=failing&range=all&endpoint=http%3A//merchant.test%3A80")
    attention = await system.services.overview.attention(OPERATOR)
    assert (attention.attempts.rows, attention.attempts.hour, attention.refunds.rows) == (1, 1, 0)
    assert [(one.endpoint, one.rows) for one in attention.failing] == [("http://merchant.test:80", 1)]
    system.clock.advance(2 * 3600)
    attention = await system.services.overview.attention(OPERATOR)
    assert (attention.attempts.hour, attention.attempts.day) == (0, 1)
    system.clock.advance(400 * 86_400)
    ending = (await system.services.overview.attention(OPERATOR)).ending
    assert {one.what for one in ending} <= {"merchant_certificate", "platform_certificates", "app_cert", "alipay_cert"}


async def test_more_notifications_than_are_looked_at_are_shown_as_at_least_so_many(
    console: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = console.system
    system.sender.default = DeliveryResponse(500, "")
    for _ in range(2):
        await system.paid("mock")
    await system.deliver()
    page = (await console.get("/")).check()
    assert "2 notifications that are not received" in page.text
    monkeypatch.setattr(overview_rows, "ENDPOINT_ROWS", 1)
    page = (await console.get("/")).check()
    assert "≥ 1 notifications that are not received" in page.text
    assert "http://merchant.test:80 ≥ 1" in page.text


async def test_health_shows_queues_and_the_check_list(console: Browser) -> None:
    system = console.system
    await system.paid("mock")
    page = (await console.get("/health")).check()
    for text in ("Ready", "pay_notify_job", "Up to date", "To do", "No enabled mock channel"):
        assert text in page.text, text
    system.clock.advance(3600)
    assert "Behind" in (await console.get("/health")).text
