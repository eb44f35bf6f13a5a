from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from paycenter_server.channels.alipay.limits import limits as alipay
from paycenter_server.channels.registry import installed
from paycenter_server.channels.wechatpay.limits import limits as wechat
from paycenter_server.channels.wechatpay.limits import refund_limits
from unit.channel_support import PAY, REFUND

PAYABLE = replace(PAY, return_url="https://shop.example.test/")


def fields(found: Any) -> list[str]:
    return [violation.field for violation in found]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"out_trade_no": "P1"}, "out_trade_no"),
        ({"out_trade_no": "P" * 33}, "out_trade_no"),
        ({"subject": "字" * 128}, "subject"),
        ({"subject": ""}, "subject"),
        ({"callback_url": "https://pay.example.test/" + "x" * 240}, "callback_url"),
        ({"callback_url": "https://pay.example.test/?a=1"}, "callback_url"),
        ({"callback_url": "http://pay.example.test/"}, "callback_url"),
        ({"extras": {"openid": "o" * 129}}, "channel_extras.openid"),
        ({"extras": {"openid": "o p"}}, "channel_extras.openid"),
        ({"extras": {"auth_code": "28" + "0" * 16}}, "channel_extras.auth_code"),
        ({"extras": {"h5_type": "Desktop"}}, "channel_extras.h5_type"),
        ({"extras": {"store_id": "1" * 33}}, "channel_extras.store_id"),
    ],
)
def test_what_wechat_would_refuse_is_named(changes: dict[str, Any], field: str) -> None:
    assert fields(wechat(replace(PAYABLE, **changes))) == [field]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"out_trade_no": "P-1"}, "out_trade_no"),
        ({"out_trade_no": "P" * 65}, "out_trade_no"),
        ({"subject": "字" * 257}, "subject"),
        ({"amount": 10_000_000_001}, "amount"),
        ({"amount": 0}, "amount"),
        ({"callback_url": "https://pay.example.test/" + "x" * 240}, "callback_url"),
        ({"return_url": "https://pay.example.test/" + "x" * 240}, "return_url"),
        ({"extras": {"auth_code": "13" + "0" * 16}}, "channel_extras.auth_code"),
        ({"extras": {"buyer_id": "2" * 129}}, "channel_extras.buyer_id"),
    ],
)
def test_what_alipay_would_refuse_is_named(changes: dict[str, Any], field: str) -> None:
    assert fields(alipay(replace(PAYABLE, **changes))) == [field]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"out_refund_no": "R" * 65}, "out_refund_no"),
        ({"out_refund_no": "R#1"}, "out_refund_no"),
        ({"reason": "字" * 27}, "reason"),
        ({"reason": "x" * 81}, "reason"),
        ({"callback_url": "https://pay.example.test/?a=1"}, "callback_url"),
    ],
)
def test_what_wechat_would_refuse_of_a_refund_is_named(changes: dict[str, Any], field: str) -> None:
    assert fields(refund_limits(replace(REFUND, **changes))) == [field]


@pytest.mark.parametrize("code", list(installed()))
def test_an_ordinary_refund_is_within_the_limits(code: str) -> None:
    assert fields(installed()[code].refund_limits(replace(REFUND, reason="字" * 26))) == []


@pytest.mark.parametrize("code", list(installed()))
def test_an_ordinary_payment_is_within_the_limits(code: str) -> None:
    auth_code = "281234567890123456" if code.startswith("alipay") else "134567890123456789"
    extras = {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o", "auth_code": auth_code}
    assert fields(installed()[code].limits(replace(PAYABLE, extras=extras))) == []
