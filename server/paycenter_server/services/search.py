"""One box for every number: what a person types is found, whichever number it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from paycenter_server.domain.ids import Prefix, decode, encode
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.storage import search as search_rows


class Kind(StrEnum):
    """The kind of what was found."""

    ORDER = "order"
    REFUND = "refund"
    NOTIFICATION = "notification"
    CHANNEL = "channel"
    ACCOUNT = "account"
    CASE = "case"


@dataclass(frozen=True, slots=True)
class Found:
    """Something with the number that was searched. `number`: its own number."""

    kind: Kind
    number: str


_DIRECT = {
    Prefix.ORDER: Kind.ORDER,
    Prefix.REFUND: Kind.REFUND,
    Prefix.NOTIFICATION: Kind.NOTIFICATION,
    Prefix.CHANNEL: Kind.CHANNEL,
    Prefix.ACCOUNT: Kind.ACCOUNT,
    Prefix.CASE: Kind.CASE,
}
LONGEST = 64


class Search:
    """Finds by number, for operators."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity

    async def find(self, caller: Caller, text: str) -> list[Found]:
        """What has this number: an own number of PayCenter, a merchant_order_id, a merchant_refund_no, an out_trade_no, an
        out_refund_no or the channel's number of a payment. An own number is not looked up: reading it tells whether it exists."""
        self._identity.require_operator(caller)
        text = text.strip()
        if not text or len(text) > LONGEST or not text.isprintable():
            return []
        own = text.upper()
        for prefix, kind in _DIRECT.items():
            if decode(prefix, own) is not None:
                return [Found(kind, own)]
        async with self._context.database.connection() as connection:
            orders, refunds = [], []
            if (key := decode(Prefix.ATTEMPT, own)) and (order := await search_rows.order_of_attempt(connection, key)):
                orders.append(order)
            if (key := decode(Prefix.OUT_REFUND, own)) and (refund := await search_rows.refund_of_out_key(connection, key)):
                refunds.append(refund)
            orders += await search_rows.orders_by_merchant_id(connection, text)
            orders += await search_rows.orders_by_channel_no(connection, text)
            refunds += await search_rows.refunds_by_merchant_no(connection, text)
        found = [Found(Kind.ORDER, encode(Prefix.ORDER, key)) for key in dict.fromkeys(orders)]
        return found + [Found(Kind.REFUND, encode(Prefix.REFUND, key)) for key in dict.fromkeys(refunds)]
