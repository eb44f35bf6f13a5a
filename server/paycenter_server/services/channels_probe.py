"""Test of a channel's configuration with harmless signed requests, and a description of what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from paycenter_server.channels.protocol import (
    AttemptRef,
    Call,
    Codec,
    PayRequest,
    PayStatus,
    ProvesKeys,
    QueryStatus,
    RequestContext,
)
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.services import channels_errors
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.channels_gateway import NOT_SENT, ChannelGateway
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.storage import channels as channel_rows

_SIGNATURE = (
    "The channel does not accept our signature. Either the private key is not the one that belongs to the merchant serial "
    "number (WeChat Pay) or to the application (Alipay), or this machine's clock is more than five minutes off."
)
_NOT_BOUND = "The application is not bound to the merchant number; bind it at the channel, or correct the one that is wrong."
_NO_PERMISSION = "The merchant has no permission for this product; apply for it at the channel."
_NO_MERCHANT = "There is no such merchant number at the channel."
_NO_APPLICATION = "There is no such application at the channel."
_WORDS = {
    "SIGN_ERROR": _SIGNATURE,
    "SIGNERROR": _SIGNATURE,
    "isv.invalid-signature": _SIGNATURE,
    "40002": _SIGNATURE,
    "RETURN_FAIL": "The channel does not understand the message, most often because the APIv2 key is not the merchant's.",
    "NO_AUTH": _NO_PERMISSION,
    "NOAUTH": _NO_PERMISSION,
    "isv.insufficient-isv-permissions": _NO_PERMISSION,
    "ACQ.ACCESS_FORBIDDEN": _NO_PERMISSION,
    "MCH_NOT_EXISTS": _NO_MERCHANT,
    "MCHID_NOT_EXIST": _NO_MERCHANT,
    "APPID_NOT_EXIST": _NO_APPLICATION,
    "APPID_MCHID_NOT_MATCH": _NOT_BOUND,
    "isv.invalid-app-id": _NO_APPLICATION,
    "isv.missing-signature-key": "The application has no public key at Alipay; upload the one that belongs to the private key.",
}
# A code of WeChat Pay can have several causes, which its message distinguishes.
_MESSAGES = {
    "SIGN_ERROR": (
        ("timestamp", "This machine's clock is more than five minutes away from the channel's: set the clock."),
        ("序列号", "The merchant serial number is not that of the merchant's certificate at the channel."),
        ("mchid", "The merchant serial number belongs to another merchant than the merchant number."),
        ("", "The private key is not the one that belongs to the merchant serial number."),
    ),
    "RETURN_FAIL": (
        ("不匹配", _NOT_BOUND),
        ("mch_id不存在", _NO_MERCHANT),
        ("appid不存在", _NO_APPLICATION),
        ("签名错误", "The APIv2 key is not the merchant's."),
    ),
}
_PERMISSION = ("NO_AUTH", "NOAUTH")


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether the channel works, and a description for the operator."""

    good: bool
    words: str


class ChannelProbe:
    """The test behind `paycenter channel test`."""

    def __init__(self, context: Context, identity: Identity, gateway: ChannelGateway) -> None:
        self._context = context
        self._identity = identity
        self._gateway = gateway

    async def probe(self, caller: Caller, app_key: str, code: str) -> Probe:
        """Fetch the channel's certificates if it has some, query a number that cannot exist, and create and close an order of 0.01
        if that is possible without a payer. CHANNEL_NOT_FOUND if the app has no such channel."""
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            channel = await channel_rows.get_channel_by_code(connection, app.id, code)
        if channel is None:
            raise channels_errors.channel_code_not_found(code)
        # Only the present keys are tested; earlier ones would hide that a new one is wrong.
        configured = replace(await self._gateway.channels.get(channel.id), earlier=[])
        return await self._keys(configured) or await self._query(configured) or await self._order(configured)

    async def _keys(self, configured: ConfiguredChannel) -> Probe | None:
        if configured.codec.keys_due(self._context.now()) and not await self._gateway.fetch_keys(configured, None):
            return Probe(
                False, "The channel's certificates cannot be fetched or do not decrypt: check the APIv3 key. " + _SIGNATURE
            )
        if not isinstance(configured.codec, ProvesKeys):
            return None
        prover = configured.codec

        def prove(codec: Codec, context: RequestContext) -> Call[str] | str:
            return prover.prove_keys(context)

        why = await self._gateway.perform(configured, prove)
        return Probe(False, f"{self._unclear(why)} (in detail: {why})") if why else None

    def _attempt(self) -> AttemptRef:
        now = self._context.now()
        number = encode(Prefix.ATTEMPT, self._context.new_key(now))
        return AttemptRef(number, 1, "CNY", now, now + timedelta(minutes=5), {"behaviour": "lost"})

    async def _query(self, configured: ConfiguredChannel) -> Probe | None:
        attempt = self._attempt()
        outcome = await self._gateway.perform(configured, lambda codec, context: codec.query(attempt, context))
        if outcome.status is QueryStatus.NOT_FOUND:
            if outcome.signed or configured.spec.trial is not None:
                return None
            return Probe(True, "The channel answers and accepts our signature, and nothing that it signed failed to verify.")
        return self._wrong(outcome.error_code, outcome.error_message, "The channel refuses the query.")

    async def _order(self, configured: ConfiguredChannel) -> Probe:
        """WeChat Pay compares application and merchant only when an order is created, and does not sign the 404 of a query."""
        build = configured.spec.trial
        if build is None:
            return Probe(True, "The channel answers, and both sides' signatures verify.")
        config = self._gateway.channels.clear_config(configured)
        trial = replace(configured, codec=build(config), key_fetches={}, fetching=None)
        attempt = self._attempt()
        request = PayRequest(
            attempt.out_trade_no, "PayCenter channel test", "", attempt.amount, attempt.currency, attempt.expire_time,
            self._gateway.callback_urls(configured.channel)[0], "", "127.0.0.1", {}, "qr_code",
        )  # fmt: skip
        made = await self._gateway.perform(trial, lambda codec, context: codec.pay(request, context))
        if made.status is PayStatus.WAITING:
            # No payer has seen its code, and it expires in minutes, so the result of the close does not matter.
            await self._gateway.perform(trial, lambda codec, context: codec.close(attempt, context))
            return Probe(True, "The channel answers, both sides' signatures verify, and an order of 0.01 was made and closed.")
        if made.error_code in _PERMISSION and configured.spec.code != trial.codec.code:
            return Probe(
                True,
                "The channel answers and accepts our signature. Whether the application is bound to the merchant number could not "
                "be tried: that takes an order by QR code (Native), for which the merchant has no permission.",
            )
        return self._wrong(made.error_code, made.error_message, "The channel refuses an order of 0.01.")

    def _wrong(self, code: str, message: str, otherwise: str) -> Probe:
        said = f" (the channel's words: {code} {message})"
        # An outcome without a usable answer has no code of the channel.
        if code in ("", "UNCLEAR", NOT_SENT):
            return Probe(False, self._unclear(message) + said)
        for mark, words in _MESSAGES.get(code, ()):
            if mark in message:
                return Probe(False, words + said)
        return Probe(False, _WORDS.get(code, otherwise) + said)

    @staticmethod
    def _unclear(why: str) -> str:
        if "among those configured" in why:
            return "The channel signs with another key than the one configured: the key id or certificate serial does not match."
        if "does not verify" in why or "does not decrypt" in why:
            return "The channel's answer does not verify: the channel's key is of the wrong kind (ours, or another merchant's)."
        if "5 minutes" in why:
            return "The answer's time is more than five minutes away from this machine's clock: set the clock."
        return "The channel cannot be reached, or its answer cannot be read: check the gateway address and the network."
