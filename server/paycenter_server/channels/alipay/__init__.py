"""Alipay, Open API gateway, RSA2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from paycenter_server.channels.alipay.bar import AlipayBarCodec
from paycenter_server.channels.alipay.config import FIELDS, check
from paycenter_server.channels.alipay.limits import limits
from paycenter_server.channels.alipay.lite import AlipayLiteCodec
from paycenter_server.channels.alipay.outcomes import ALARM_CODES
from paycenter_server.channels.alipay.page import AlipayAppCodec, AlipayPcCodec, AlipayWapCodec
from paycenter_server.channels.alipay.qr import AlipayQrCodec
from paycenter_server.channels.protocol import Codec
from paycenter_server.channels.specs import Browser, CashierOffer, ChannelSpec, RequiredExtra


class _Kind(Protocol):
    code: str

    def __call__(self, config: Mapping[str, str]) -> Codec:
        """Build it."""
        ...


def _spec(
    codec: _Kind,
    titles: tuple[str, str],
    modes: Sequence[str],
    required_extras: tuple[RequiredExtra, ...] = (),
    life: timedelta | None = None,
    *,
    cashier: CashierOffer | None = None,
) -> ChannelSpec:
    return ChannelSpec(
        code=codec.code,
        family="alipay",
        own_config=True,
        identity_fields=("app_id",),
        account_ways=({"mode": "key"}, {"mode": "certificate"}),
        title=titles[0],
        short_title=titles[1],
        family_title="Alipay",
        display_modes=tuple(modes),
        config_fields=FIELDS,
        mode_field="mode",
        check=check,
        build=codec,
        required_extras=required_extras,
        limits=limits,
        attempt_life=life,
        alarm_codes=ALARM_CODES,
        # "1m to 15d".
        longest_life=timedelta(days=15),
        cashier=cashier,
    )


def _offer(rank: int, chinese: str, english: str, *browsers: Browser) -> CashierOffer:
    return CashierOffer(browsers, rank, {"zh": chinese, "en": english}, {"zh": "支付宝", "en": "Alipay"})


CHANNELS = (
    _spec(
        AlipayPcCodec, ("Alipay web page", "PC"), ("url", "form"),
        cashier=_offer(30, "支付宝网页支付", "Alipay web page", Browser.DESK),
    ),
    _spec(
        AlipayWapCodec, ("Alipay mobile page", "WAP"), ("url", "form"),
        cashier=_offer(20, "支付宝", "Alipay", Browser.ALIPAY, Browser.PHONE),
    ),
    _spec(AlipayAppCodec, ("Alipay app", "In-app"), ("app",)),
    _spec(
        AlipayQrCodec, ("Alipay QR code", "QR"), ("qr_code",),
        cashier=_offer(20, "支付宝扫码支付", "Alipay QR code", Browser.DESK),
    ),
    _spec(AlipayLiteCodec, ("Alipay mini program", "Mini"), ("app",), (RequiredExtra(("buyer_open_id", "buyer_id")),)),
    # "Query every 3 to 6 s up to about 60 s, then cancel."
    _spec(
        AlipayBarCodec, ("Alipay bar code", "Code"), ("bar_code",), (RequiredExtra(("auth_code",)),), timedelta(seconds=60),
        cashier=_offer(50, "支付宝付款码", "Alipay payment code", Browser.DESK),
    ),
)  # fmt: skip
