"""The fee of a payment is computed with the rate that the channel had when the attempt was made."""

from __future__ import annotations

from paycenter_server.domain.cases import Decision
from support.cases import ANNE, decide, hold, late
from support.facts import configured, payment_of
from support.system import CAUSE, OPERATOR, PayCenterSystem


async def new_rate(system: PayCenterSystem) -> None:
    await system.services.channels.update(OPERATOR, system.channels["mock"], {"fee_rate_ppm": 20_000}, "", None)


async def test_a_payment_has_the_fee_rate_of_the_time_of_its_attempt(system: PayCenterSystem) -> None:
    order = await system.order(amount=10_000)
    attempt = await system.submit(order, "mock", behaviour="never")
    await new_rate(system)
    channel = await configured(system, "mock")
    assert channel.channel.fee_rate_ppm == 20_000
    await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
    paid = await system.read(order)
    assert (paid.channel_fee_rate_ppm, paid.channel_fee_amount) == (6000, 60)


async def test_an_accepted_late_payment_has_the_fee_rate_of_the_time_of_its_attempt(system: PayCenterSystem) -> None:
    await hold(system)
    order, case = await late(system, amount=10_000)
    await new_rate(system)
    await decide(system, ANNE, case, Decision.ACCEPT)
    paid = await system.read(order)
    assert (paid.channel_fee_rate_ppm, paid.channel_fee_amount) == (6000, 60)


async def test_an_attempt_of_an_earlier_version_has_the_fee_rate_of_now(system: PayCenterSystem) -> None:
    order = await system.order(amount=10_000)
    attempt = await system.submit(order, "mock", behaviour="never")
    await system.rows("UPDATE pay_attempt SET fee_rate_ppm = NULL")
    channel = await configured(system, "mock")
    await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
    assert (await system.read(order)).channel_fee_rate_ppm == 6000
