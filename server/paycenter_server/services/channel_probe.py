"""Trying a channel's configuration with a harmless signed query, and saying in plain words what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from paycenter_server.channels.protocol import AttemptRef, Call, Codec, Moment, ProvesKeys, QueryStatus
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.services.channel_gateway import ChannelGateway, channel_not_found
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.storage import channels as channel_rows

_SIGNATURE = (
    "The channel does not accept our signature. Either the private key is not the one that belongs to the merchant serial "
    "number (WeChat Pay) or to the application (Alipay), or this machine's clock is more than five minutes off."
)
_WORDS = {
    "SIGN_ERROR": _SIGNATURE,
    "SIGNERROR": _SIGNATURE,
    "isv.invalid-signature": _SIGNATURE,
    "40002": _SIGNATURE,
    "RETURN_FAIL": "The channel does not understand the message, most often because the APIv2 key is not the merchant's.",
    "NO_AUTH": "The merchant has no permission for this product; apply for it at the channel.",
    "NOAUTH": "The merchant has no permission for this product; apply for it at the channel.",
    "MCH_NOT_EXISTS": "There is no such merchant number at the channel.",
    "MCHID_NOT_EXIST": "There is no such merchant number at the channel.",
    "APPID_NOT_EXIST": "There is no such application at the channel.",
    "APPID_MCHID_NOT_MATCH": "The application is not bound to the merchant number; bind it at the channel.",
    "isv.invalid-app-id": "There is no such application at the channel.",
    "isv.missing-signature-key": "The application has no public key at Alipay; upload the one that belongs to the private key.",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether the channel works, and what to do if not."""

    good: bool
    words: str


class ChannelProbe:
    """For the command line."""

    def __init__(self, context: Context, identity: Identity, gateway: ChannelGateway) -> None:
        self._context = context
        self._identity = identity
        self._gateway = gateway

    async def probe(self, caller: Caller, app_key: str, code: str) -> Probe:
        """Fetch the channel's certificates where it has such, and query a number that cannot exist. CHANNEL_NOT_FOUND."""
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            channel = await channel_rows.get_channel_by_code(connection, app.id, code)
        if channel is None:
            raise channel_not_found(code)
        configured = await self._gateway.get(channel.id)
        now = self._context.now()
        if configured.codec.keys_due(now) and not await self._gateway.fetch_keys(configured, None):
            return Probe(
                False, "The channel's certificates cannot be fetched or do not decrypt: check the APIv3 key. " + _SIGNATURE
            )
        if isinstance(configured.codec, ProvesKeys):
            prover = configured.codec

            def prove(codec: Codec, moment: Moment) -> Call[str] | str:
                return prover.prove_keys(moment)

            why = await self._gateway.perform(configured, prove)
            if why:
                return Probe(False, f"{self._unclear(why)} (in detail: {why})")
        number = encode(Prefix.ATTEMPT, self._context.new_key(now))
        attempt = AttemptRef(number, 1, "CNY", now, now + timedelta(minutes=5), {"behaviour": "lost"})
        outcome = await self._gateway.perform(configured, lambda codec, moment: codec.query(attempt, moment))
        if outcome.status is QueryStatus.NOT_FOUND and outcome.signed:
            return Probe(True, "The channel answers, and both sides' signatures verify.")
        if outcome.status is QueryStatus.NOT_FOUND:
            # WeChat v3 leaves a 404 unsigned, and a merchant without certificates gets nothing signed before it is paid.
            return Probe(True, "The channel answers and accepts our signature, and nothing that it signed failed to verify.")
        said = f" (the channel's words: {outcome.error_code} {outcome.error_message})"
        if outcome.error_code == "UNCLEAR":
            return Probe(False, self._unclear(outcome.error_message) + said)
        return Probe(False, _WORDS.get(outcome.error_code, "The channel refuses the query.") + said)

    @staticmethod
    def _unclear(why: str) -> str:
        if "among those configured" in why:
            return "The channel signs with another key than the one configured: the key id or certificate serial does not match."
        if "does not verify" in why or "does not decrypt" in why:
            return "The channel's answer does not verify: the channel's key is of the wrong kind (ours, or another merchant's)."
        if "5 minutes" in why:
            return "The answer's time is more than five minutes away from this machine's clock: set the clock."
        return "The channel cannot be reached, or its answer cannot be read: check the gateway address and the network."
