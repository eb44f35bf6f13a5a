"""The keys of the merchant itself are changed in the channel's console and at the account. Those before verify for a while."""

from __future__ import annotations

import pytest
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import RefundState
from support.merchants import change_own_keys, merchant_of
from support.system import OPERATOR, PayCenterSystem

CODES = (("wx_native", "v3"), ("wx_native", "v2"), ("alipay_qr", ""), ("alipay_pc", ""))


@pytest.mark.parametrize(("code", "version"), CODES)
async def test_an_account_with_new_keys_of_its_own_pays_and_refunds(system: PayCenterSystem, code: str, version: str) -> None:
    merchant = merchant_of(system.keys_dir, system.simulator)
    family, config = merchant.config(code, version)
    await system.services.channels.update(OPERATOR, system.channels[code], {}, family, config)
    before = await paid(system, code)
    assert await change_own_keys(system.services, system.simulator, merchant.configs, family)
    earlier = await system.value("SELECT jsonb_array_length(earlier_keys) FROM pay_account WHERE family = $1", family)
    assert earlier > 0
    for order in (before, await paid(system, code)):
        refund = await system.decided(await system.refund(order, 40))
        assert refund.state is RefundState.SUCCESS


@pytest.mark.parametrize("code", ["alipay_qr", "alipay_pc"])
async def test_the_channel_takes_the_keys_before_as_well(system: PayCenterSystem, code: str) -> None:
    await system.simulator.post("/simulator/merchant-keys", {"channel": "alipay"})
    assert (await paid(system, code)).state.value == "SUCCESS"


async def paid(system: PayCenterSystem, code: str) -> PayOrder:
    """An order that is paid by its callback."""
    order = await system.order()
    attempt = await system.submit(order, code)
    if code == "alipay_qr":
        await system.session.get(f"{system.simulator.base}/cashier/{attempt.out_trade_no}")
    elif code == "alipay_pc":
        await system.session.get(attempt.display_content)
    await system.simulator.pay(attempt.out_trade_no)
    return await system.until(order, "SUCCESS")
