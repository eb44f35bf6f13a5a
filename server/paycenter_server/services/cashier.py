"""The cashier: signed links to an order, the ways in which its payer can pay now, and the signed way back to the app.

A link names an order and is signed with a key that is derived from the master key. It needs no row, ends with its order, and gives
its holder no other right than to see this order and to pay it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

from paycenter_server.channels.specs import Browser, CashierOffer, ChannelSpec
from paycenter_server.domain.apps import PayApp
from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import OPEN_ATTEMPT, OrderState
from paycenter_server.services import channels_errors, orders_errors
from paycenter_server.services.attempts_checks import EXTRAS_MAX
from paycenter_server.services.attempts_submission import NewSubmission, Submission
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.notifications_signing import secret_place
from paycenter_server.services.orders import Orders
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage import orders as order_rows

_PURPOSE = "cashier link"
_MAC = 16
# The result stays visible for so long after the expiry of the order.
RESULT_SHOWN = timedelta(days=1)
# The payer types it; all other extras are in the link.
_TYPED = "auth_code"
_EXTRA_MAX = 128
# More than three extras of that length take, each of their characters escaped in JSON.
_TOKEN_MAX = 2048


def browser_of(user_agent: str) -> Browser:
    """The browser by its User-Agent header."""
    agent = user_agent.lower()
    if "micromessenger" in agent:
        return Browser.WECHAT
    if "alipayclient" in agent:
        return Browser.ALIPAY
    return Browser.PHONE if any(word in agent for word in ("iphone", "android", "mobile", "harmony")) else Browser.DESK


@dataclass(frozen=True, slots=True)
class CashierLink:
    """A link and the time at which its order expires."""

    url: str
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Way:
    """A channel that the page offers. `typed`: the payer types a payment code."""

    code: str
    family: str
    offer: CashierOffer
    typed: bool


@dataclass(frozen=True, slots=True)
class CashierView:
    """What the page shows. `ways`: those that the app has enabled and that work in this browser, the best one first. `attempt`: the
    open one that the payer is paying now, None if there is none. `scanner`: the app that scans its QR code, by language.
    `return_url`: the signed way back, empty if the order has none."""

    order: PayOrder
    app_name: str
    ways: list[Way]
    attempt: PayAttempt | None
    scanner: Mapping[str, str]
    return_url: str
    expired: bool

    @property
    def payable(self) -> bool:
        """Whether the payer can still pay."""
        return self.order.state is OrderState.WAITING and not self.expired


class LinkError(Exception):
    """A link that was not made here, or that has ended. What is wrong with it is not told to whoever holds it."""


@dataclass(frozen=True, slots=True)
class _Claims:
    order_id: UUID
    extras: Mapping[str, str]


class Cashier:
    """Makes links and serves those who hold them."""

    def __init__(self, context: Context, identity: Identity, orders: Orders, submission: Submission) -> None:
        self._context = context
        self._identity = identity
        self._orders = orders
        self._submission = submission

    def link(self, order: PayOrder, extras: Mapping[str, str]) -> CashierLink:
        """A link to an order that the caller has loaded. ORDER_PAID, ORDER_CLOSED or ORDER_EXPIRED if it can no longer be paid."""
        known = self._known_extras()
        if len(extras) > EXTRAS_MAX:  # a request may hold 30,000 of them
            raise invalid([Violation("channel_extras", f"has {len(extras)} entries; the most is {EXTRAS_MAX}")])
        wrong = [
            Violation(f"channel_extras.{name}"[:100], f"is not one of: {', '.join(known)}")
            for name in extras if name not in known
        ]  # fmt: skip
        wrong += [
            Violation(f"channel_extras.{name}", f"has more than {_EXTRA_MAX} characters")
            for name, value in extras.items() if name in known and len(value) > _EXTRA_MAX
        ]  # fmt: skip
        # What the channels issue is plain ASCII, and so a link has a bounded length.
        wrong += [
            Violation(f"channel_extras.{name}", "must hold printable ASCII characters only")
            for name, value in extras.items() if name in known and not (value.isascii() and value.isprintable())
        ]  # fmt: skip
        if wrong:
            raise invalid(wrong)
        now = self._context.now()
        if order.state in (OrderState.SUCCESS, OrderState.REFUND):
            raise orders_errors.order_paid()
        if order.state is OrderState.CLOSED or order.expire_time <= now:
            raise orders_errors.order_ended(order, now)
        return CashierLink(f"{self._context.options.cashier_url}/{self._token(order.id, extras)}", order.expire_time)

    def _known_extras(self) -> list[str]:
        """What the installed channels need to know of a payer, and what a link may say therefore."""
        specs = self._context.registry.values()
        names = (name for spec in specs for extra in spec.required_extras for name in extra.names)
        return [name for name in dict.fromkeys(names) if name != _TYPED]

    def _token(self, order_id: UUID, extras: Mapping[str, str]) -> str:
        message = order_id.bytes + (json.dumps(dict(extras), separators=(",", ":")).encode() if extras else b"")
        return base64.urlsafe_b64encode(self._context.box.sign(message, _PURPOSE) + message).rstrip(b"=").decode()

    def _claims(self, token: str) -> _Claims:
        try:
            raw = (
                base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
                if len(token) <= _TOKEN_MAX
                else b""
            )
        except (binascii.Error, ValueError):
            raw = b""
        mac, message = raw[:_MAC], raw[_MAC:]
        # The last character has bits that decode to nothing: only the token as it was made is a link.
        whole = base64.urlsafe_b64encode(raw).rstrip(b"=") == token.encode("utf-8", "replace")
        if len(message) < 16 or not whole or not self._context.box.signed(message, _PURPOSE, mac):
            raise LinkError
        return _Claims(UUID(bytes=message[:16]), json.loads(message[16:]) if message[16:] else {})

    async def view(self, token: str, browser: Browser) -> CashierView:
        """What the holder of a link sees. LinkError."""
        claims = self._claims(token)
        order, app, attempts, codes = await self._read(claims)
        now = self._context.now()
        if self._has_ended(order):
            raise LinkError
        shown = [attempt for attempt in attempts if attempt.state.value in OPEN_ATTEMPT and attempt.display_content]
        attempt = shown[-1] if shown else None
        spec = self._context.registry.get(attempt.channel_code) if attempt else None
        scanner = spec.cashier.scanner if spec and spec.cashier else {}
        ways = self._ways(codes, browser, claims.extras)
        return CashierView(order, app.name, ways, attempt, scanner, self._return_url(order, app), order.expire_time <= now)

    def _ways(self, codes: Sequence[str], browser: Browser, extras: Mapping[str, str]) -> list[Way]:
        ways = [
            Way(code, spec.family, spec.cashier, spec.needs(_TYPED))
            for code, spec in self._context.registry.items()
            if code in codes and spec.cashier and browser in spec.cashier.browsers and self._usable(spec, extras)
        ]
        return sorted(ways, key=lambda way: way.offer.rank)

    async def state(self, token: str) -> OrderState:
        """The state of the order. LinkError."""
        claims = self._claims(token)
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order(connection, claims.order_id)
        if order is None or self._has_ended(order):
            raise LinkError
        return order.state

    async def submit(self, token: str, code: str, auth_code: str, peer: str, browser: Browser) -> None:
        """Submit the order through a way that the page offers, as its app would. Errors as of SubmitPayOrder, and LinkError."""
        claims = self._claims(token)
        view = await self.view(token, browser)
        way = next((way for way in view.ways if way.code == code), None)
        if way is None:
            raise channels_errors.channel_code_not_found(code)
        spec = self._context.registry[code]
        known = {**claims.extras, _TYPED: auth_code}
        extras = {**way.offer.extras, **{name: value for name, value in known.items() if spec.needs(name) and value}}
        caller = Caller("cashier", view.order.app_id, view.order.app_key)
        await self._submission.submit(caller, NewSubmission(view.order.number, code, extras, "", "", peer))

    def _has_ended(self, order: PayOrder) -> bool:
        return self._context.now() > order.expire_time + RESULT_SHOWN

    def _usable(self, spec: ChannelSpec, extras: Mapping[str, str]) -> bool:
        if spec.development_only and self._context.options.production:
            return False
        return all(_TYPED in extra.names or any(extras.get(name) for name in extra.names) for extra in spec.required_extras)

    async def _read(self, claims: _Claims) -> tuple[PayOrder, PayApp, list[PayAttempt], list[str]]:
        async with self._context.database.connection() as connection:
            order = await order_rows.get_order(connection, claims.order_id)
            app = await app_rows.get_app_by_id(connection, order.app_id) if order else None
            if order is None or app is None or not app.enabled:
                raise LinkError
            attempts = await attempt_rows.list_attempts(connection, order.id)
            return order, app, attempts, await channel_rows.usable_codes(connection, order.app_id)

    def _return_url(self, order: PayOrder, app: PayApp) -> str:
        """The app's return URL with the result and its signature, by the app's notification secret (`paycenter.verify_return`)."""
        if not order.return_url:
            return ""
        secret = self._context.box.open(app.notification_secret, secret_place(app.id))
        result = {
            "pay_order_id": order.number, "merchant_order_id": order.merchant_order_id, "state": order.state.value,
            "timestamp": str(int(self._context.now().timestamp())),
        }  # fmt: skip
        parts = urlsplit(order.return_url)
        query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in (*result, "sign")]
        signed = [*query, *result.items(), ("sign", sign_return(secret, result))]
        return urlunsplit(parts._replace(query=urlencode(signed)))


def sign_return(secret: str, result: Mapping[str, str]) -> str:
    """HMAC-SHA256 in hexadecimal over the four values, joined with line feeds, with the key of the secret `whsec_…`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = "\n".join(result[name] for name in ("pay_order_id", "merchant_order_id", "state", "timestamp"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
