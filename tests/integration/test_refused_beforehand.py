"""Requests that a channel would refuse are refused before anything is stored, reserved or sent; every field is named."""

from __future__ import annotations

import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from support.system import PayCenterSystem


async def test_a_payment_beyond_the_channels_limits(system: PayCenterSystem) -> None:
    await system.add_channel("wx_pub")
    order = await system.order()
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "wx_pub", openid="not an openid", auth_code="1")
    assert caught.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in caught.value.violations] == ["channel_extras.openid", "channel_extras.auth_code"]
    assert await system.value("SELECT count(*) FROM pay_attempt") == 0
    assert await system.simulator.get("/simulator/trades") == []


async def test_a_refund_beyond_the_channels_limits(system: PayCenterSystem) -> None:
    """80 characters are valid for PayCenter and Alipay. WeChat Pay counts bytes."""
    reason = "退" * 80
    order = await system.paid("wx_native")
    with pytest.raises(PayCenterError) as caught:
        await system.refund(order, 40, reason=reason)
    assert caught.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in caught.value.violations] == ["reason"]
    assert await system.value("SELECT count(*) FROM pay_refund") == 0
    after = await system.read(order)
    assert (after.reserved_amount, after.refunded_amount) == (0, 0)
    assert (await system.refund(await system.paid("alipay_qr"), 40, reason=reason)).channel_error_code in (None, "")
