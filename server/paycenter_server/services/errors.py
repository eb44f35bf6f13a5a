"""The errors that use cases return: a stable reason, a message, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from paycenter_server.domain.accounts import PayAccount, Unsettled
from paycenter_server.domain.cases import PayCase
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.notifications import PayNotification
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import OrderState

ASK_AGAIN_SECONDS = 3.0


def credentials_missing() -> PayCenterError:
    """The call has no `authorization` metadata."""
    return PayCenterError(
        Reason.CREDENTIALS_MISSING,
        "Send credentials as `authorization: Basic base64(key_id:secret)` metadata; the client library does this.",
    )


def credentials_invalid() -> PayCenterError:
    """The same for an unknown key id, a wrong secret and a disabled credential, so that key ids cannot be probed."""
    return PayCenterError(
        Reason.CREDENTIALS_INVALID,
        "The credential is unknown, disabled, or its secret is wrong; check the key id and secret that this service uses.",
    )


_HOW_TO_AUTHORIZE = "send `authorization: Basic base64(key_id:secret)` metadata; the client library does it for you."


def authorization_scheme(scheme: str) -> PayCenterError:
    """Another scheme than Basic; "" if none is recognisable."""
    what = f"The authorization scheme {scheme!r} is not supported" if scheme else "The authorization metadata has no scheme"
    return PayCenterError(Reason.CREDENTIALS_INVALID, f"{what}; {_HOW_TO_AUTHORIZE}")


def authorization_malformed() -> PayCenterError:
    """Basic, but not followed by base64 of a key id, a colon and a secret."""
    return PayCenterError(
        Reason.CREDENTIALS_INVALID, f"The text after `Basic` is not base64 of `key_id:secret`; {_HOW_TO_AUTHORIZE}"
    )


def operators_only() -> PayCenterError:
    """An app credential called an administrative method."""
    return PayCenterError(Reason.PERMISSION_DENIED, "Administration needs an operator credential.")


def another_app(own_key: str, app_key: str) -> PayCenterError:
    """An app credential named another app."""
    return PayCenterError(
        Reason.PERMISSION_DENIED,
        f"This credential belongs to the app {own_key!r}; leave app_key empty or name that app.",
        metadata={"app_key": app_key},
    )


def credential_not_found(method: str) -> PayCenterError:
    """There is no such credential. `method` lists the existing ones."""
    return PayCenterError(Reason.CREDENTIAL_NOT_FOUND, f"There is no such credential; {method} lists the existing ones.")


def last_credential() -> PayCenterError:
    """The last enabled operator credential cannot be disabled."""
    return PayCenterError(
        Reason.CREDENTIAL_LAST,
        "This is the last enabled operator credential; create another one with `paycenter operator NAME` before you disable it.",
    )


def app_not_found(app_key: str) -> PayCenterError:
    """There is no app under this key."""
    return PayCenterError(
        Reason.APP_NOT_FOUND, f"There is no app {app_key!r}; an operator creates it.", metadata={"app_key": app_key}
    )


def app_disabled(app_key: str) -> PayCenterError:
    """The app is disabled: it can only read and refund."""
    return PayCenterError(
        Reason.APP_DISABLED,
        f"The app {app_key!r} is disabled: it can only read and refund; an operator can enable it.",
        metadata={"app_key": app_key},
    )


def app_exists(app_key: str) -> PayCenterError:
    """Another app has the key."""
    return PayCenterError(Reason.APP_EXISTS, f"The app key {app_key!r} is taken; choose another.", metadata={"app_key": app_key})


def app_has_orders() -> PayCenterError:
    """The app has orders and cannot be deleted."""
    return PayCenterError(Reason.APP_HAS_ORDERS, "The app has pay orders and cannot be deleted; disable it instead.")


def app_has_refunds() -> PayCenterError:
    """The app has refunds and cannot be deleted."""
    return PayCenterError(Reason.APP_HAS_REFUNDS, "The app has refunds and cannot be deleted; disable it instead.")


def channel_not_found() -> PayCenterError:
    """There is no channel with this id, or it belongs to another app."""
    return PayCenterError(Reason.CHANNEL_NOT_FOUND, "There is no such channel; ListPayChannels lists the existing ones.")


def channel_code_not_found(code: str) -> PayCenterError:
    """The app has no channel with this code. Apps may call the recommended method too."""
    return PayCenterError(
        Reason.CHANNEL_NOT_FOUND,
        f"The app has no channel {code!r}; ListEnabledChannelCodes lists its channels.",
        metadata={"channel_code": code},
    )


def channel_not_installed(code: str) -> PayCenterError:
    """The channel exists, but no installed package provides its code."""
    return PayCenterError(
        Reason.CHANNEL_NOT_FOUND,
        f"No installed package provides the channel code {code!r}; install it, or use another channel.",
        metadata={"channel_code": code},
    )


def channel_disabled(code: str) -> PayCenterError:
    """The channel takes no new payments."""
    return PayCenterError(
        Reason.CHANNEL_DISABLED,
        f"The channel {code!r} is disabled; offer another one, or ask an operator to enable it.",
        metadata={"channel_code": code},
    )


def channel_not_allowed(code: str) -> PayCenterError:
    """A development channel is refused in production mode."""
    return PayCenterError(
        Reason.CHANNEL_NOT_ALLOWED,
        f"The channel {code!r} is for development and refused in production mode.",
        metadata={"channel_code": code},
    )


def channel_exists(code: str) -> PayCenterError:
    """The app has a channel with this code."""
    return PayCenterError(
        Reason.CHANNEL_EXISTS, f"The app has a channel {code!r} already; update that one.", metadata={"channel_code": code}
    )


def channel_changed() -> PayCenterError:
    """Another call has changed the channel."""
    return PayCenterError(Reason.CHANNEL_CHANGED, "Another call has changed the channel; read it and repeat the call.")


def channel_has_orders() -> PayCenterError:
    """The channel has attempts and cannot be deleted."""
    return PayCenterError(Reason.CHANNEL_HAS_ORDERS, "The channel has attempts and cannot be deleted; disable it instead.")


def channel_unclear(code: str) -> PayCenterError:
    """The channel gave no clear answer."""
    return PayCenterError(
        Reason.CHANNEL_UNCLEAR,
        f"The channel {code!r} did not answer clearly, so nothing was decided; repeat the same call in a moment.",
        metadata={"channel_code": code},
        retry_after=ASK_AGAIN_SECONDS,
    )


def channel_unreachable(code: str, why: str) -> PayCenterError:
    """The request to the channel was not sent, so the channel has not created anything."""
    return PayCenterError(
        Reason.CHANNEL_UNREACHABLE,
        f"The channel {code!r} cannot be reached ({why}); repeat the call in a moment, or offer another channel.",
        metadata={"channel_code": code},
        retry_after=ASK_AGAIN_SECONDS,
    )


def channel_refused(channel_code: str, code: str, message: str) -> PayCenterError:
    """The channel refused; its own code and message are in the metadata."""
    return PayCenterError(
        Reason.CHANNEL_REFUSED,
        f"The channel {channel_code!r} refused ({code}: {message}); correct what it names, or offer another channel.",
        metadata={"channel_code": channel_code, "channel_error_code": code, "channel_error_message": message},
    )


def account_not_found() -> PayCenterError:
    """There is no account with this id."""
    return PayCenterError(Reason.ACCOUNT_NOT_FOUND, "There is no such account; ListPayAccounts lists the existing ones.")


def account_exists(account: PayAccount) -> PayCenterError:
    """There is an account of this family with this identity."""
    return PayCenterError(
        Reason.ACCOUNT_EXISTS,
        f"There is an account {account.number} of {account.family} {account.identity!r} already; use it, or update it.",
        metadata={"account_id": account.number},
    )


def account_identity_fixed(account: PayAccount, fields: Sequence[str]) -> PayCenterError:
    """An update names another merchant."""
    return PayCenterError(
        Reason.ACCOUNT_IDENTITY_FIXED,
        f"The identity of an account never changes ({', '.join(fields)}; this is {account.identity!r}); create another account and "
        "move the channels to it.",
        metadata={"account_id": account.number, "fields": ",".join(fields)},
    )


def account_unsettled(account: PayAccount, unsettled: Unsettled) -> PayCenterError:
    """Attempts, refunds or cases of the account are not settled yet."""
    return PayCenterError(
        Reason.ACCOUNT_UNSETTLED,
        f"The account has {unsettled.attempts} attempts and {unsettled.refunds} refunds that are not settled, and "
        f"{unsettled.cases} open cases about its money; move its channels to another account, and repeat the call when they are "
        "settled.",
        metadata={
            "account_id": account.number,
            "unsettled_attempts": str(unsettled.attempts),
            "unsettled_refunds": str(unsettled.refunds),
            "open_cases": str(unsettled.cases),
        },
    )


def account_in_use(account: PayAccount) -> PayCenterError:
    """Channels have or had the account."""
    return PayCenterError(
        Reason.ACCOUNT_IN_USE,
        "Channels have or had this account, so it cannot be deleted; move them to another account, and disable it instead.",
        metadata={"account_id": account.number},
    )


def account_disabled(account: PayAccount) -> PayCenterError:
    """The account takes no new payments and refunds."""
    return PayCenterError(
        Reason.ACCOUNT_DISABLED,
        f"The account {account.number} is disabled and takes no new payments and refunds; offer another channel, or ask an "
        "operator to enable it or to move the channel to another account.",
        metadata={"account_id": account.number},
    )


def account_changed() -> PayCenterError:
    """Another call has changed the account."""
    return PayCenterError(Reason.ACCOUNT_CHANGED, "Another call has changed the account; read it and repeat the call.")


def order_not_found() -> PayCenterError:
    """There is no such order, or it belongs to another app."""
    return PayCenterError(Reason.ORDER_NOT_FOUND, "There is no such pay order of this app; check the number.")


def order_conflict(existing: PayOrder, differing: Sequence[str]) -> PayCenterError:
    """An order with other content has the merchant_order_id."""
    return PayCenterError(
        Reason.ORDER_CONFLICT,
        f"merchant_order_id {existing.merchant_order_id!r} is taken by order {existing.number} with another "
        f"{', '.join(differing)}; use a new merchant_order_id, or send the same content.",
        metadata={
            "pay_order_id": existing.number,
            "merchant_order_id": existing.merchant_order_id,
            "differing_fields": ",".join(differing),
        },
    )


def order_closed() -> PayCenterError:
    """The order was closed before it expired."""
    return PayCenterError(Reason.ORDER_CLOSED, "The order is closed; create a new one under a new merchant_order_id.")


def order_expired() -> PayCenterError:
    """The order has expired. It may be closed already."""
    return PayCenterError(Reason.ORDER_EXPIRED, "The order has expired; create a new one under a new merchant_order_id.")


def order_ended(order: PayOrder, now: datetime) -> PayCenterError:
    """ORDER_EXPIRED for an order that has expired, closed or not; else ORDER_CLOSED."""
    return order_expired() if order.expire_time <= now else order_closed()


def order_paid() -> PayCenterError:
    """The order is paid."""
    return PayCenterError(Reason.ORDER_PAID, "The order is already paid; read it to see by which payment.")


def order_changed() -> PayCenterError:
    """Another call has changed the order."""
    return PayCenterError(
        Reason.ORDER_CHANGED, "The order changed while this call was running; read it and decide again.", retry_after=0.5
    )


def order_under_review(order: PayOrder, case: PayCase) -> PayCenterError:
    """Money of the order waits for the decision of an operator."""
    return PayCenterError(
        Reason.ORDER_UNDER_REVIEW,
        f"The order is {order.state.value}, and case {case.number} about its money ({case.kind.value}) is open; do not let "
        "it be paid again, and wait for pay_case.resolved, or ask an operator.",
        metadata={"pay_order_id": order.number, "state": order.state.value, "pay_case_id": case.number, "kind": case.kind.value},
    )


def attempt_pending(channel_code: str, out_trade_no: str, seconds: float) -> PayCenterError:
    """An earlier attempt cannot be closed yet. The call may be repeated after `seconds`."""
    return PayCenterError(
        Reason.ATTEMPT_PENDING,
        f"An earlier submit to {channel_code!r} is still being decided there; repeat the call in a moment.",
        metadata={"out_trade_no": out_trade_no},
        retry_after=max(seconds, ASK_AGAIN_SECONDS),
    )


def refund_not_found() -> PayCenterError:
    """There is no such refund, or it belongs to another app."""
    return PayCenterError(Reason.REFUND_NOT_FOUND, "There is no such refund of this app; check the number.")


def refund_conflict(existing: PayRefund, differing: Sequence[str]) -> PayCenterError:
    """A refund with other content has the merchant_refund_no."""
    return PayCenterError(
        Reason.REFUND_CONFLICT,
        f"merchant_refund_no {existing.merchant_refund_no!r} is taken by refund {existing.number} with another "
        f"{', '.join(differing) or 'origin'}; use a new merchant_refund_no, or send the same content.",
        metadata={
            "pay_refund_id": existing.number,
            "merchant_refund_no": existing.merchant_refund_no,
            "differing_fields": ",".join(differing),
        },
    )


def refund_under_review(refund: PayRefund, case: str) -> PayCenterError:
    """The refund failed here, but its money may be with the payer, so it is not sent again. `case`: the open case, "" if none."""
    reason = f"case {case} about refunds of the same payment is open" if case else "the channel is still processing its old number"
    return PayCenterError(
        Reason.REFUND_UNDER_REVIEW,
        f"Refund {refund.number} is not sent again, because {reason}; read the refund later, or ask an operator.",
        metadata={"pay_refund_id": refund.number, "pay_case_id": case},
    )


def refund_of_no_order(merchant_order_id: str) -> PayCenterError:
    """The order to refund does not exist."""
    return PayCenterError(Reason.ORDER_NOT_FOUND, f"The app has no order {merchant_order_id!r}; check merchant_order_id.")


def not_refundable(order: PayOrder) -> PayCenterError:
    """The order was not paid."""
    return PayCenterError(
        Reason.ORDER_NOT_REFUNDABLE,
        f"The order is {order.state.value} and was never paid, so there is nothing to refund.",
        metadata={"pay_order_id": order.number, "state": order.state.value},
    )


def refund_exceeds_paid(order: PayOrder) -> PayCenterError:
    """The amount is more than what remains of the paid amount."""
    if order.state not in (OrderState.SUCCESS, OrderState.REFUND):
        return not_refundable(order)
    left = order.paid_amount - order.refunded_amount - order.reserved_amount
    return PayCenterError(
        Reason.REFUND_EXCEEDS_PAID,
        f"Only {left} minor units of the {order.paid_amount} paid are left to refund; {order.refunded_amount} are refunded "
        f"and {order.reserved_amount} are reserved by refunds that are not settled yet. Ask for {left} at most.",
        metadata={"pay_order_id": order.number, "refundable_amount": str(left)},
    )


def notification_not_found() -> PayCenterError:
    """There is no such notification, or it belongs to another app."""
    return PayCenterError(Reason.NOTIFICATION_NOT_FOUND, "There is no such notification; check the number.")


def notification_open() -> PayCenterError:
    """The notification is still being delivered."""
    return PayCenterError(
        Reason.NOTIFICATION_OPEN,
        "The notification is still being delivered by its schedule; send it at once with SendPayNotificationNow.",
    )


def notification_finished(task: PayNotification) -> PayCenterError:
    """The notification is not waiting for a delivery."""
    return PayCenterError(
        Reason.NOTIFICATION_FINISHED,
        f"The notification is {task.state.value}, so no delivery is due; send it again with ResendPayNotification.",
        metadata={"id": task.number, "state": task.state.value},
    )


def notification_superseded(task: PayNotification, newest: PayNotification) -> PayCenterError:
    """A newer notification of the same object replaces this one."""
    return PayCenterError(
        Reason.NOTIFICATION_SUPERSEDED,
        f"The notification reports version {task.data_version} of its object; {newest.number} ({newest.event}) replaces it and "
        f"reports version {newest.data_version}. Send that one again.",
        metadata={"id": task.number, "replaced_by": newest.number},
    )


def page_token_invalid() -> PayCenterError:
    """The page token was not given for a list with these filters."""
    return PayCenterError(
        Reason.PAGE_TOKEN_INVALID,
        "The page token does not belong to a list with these filters; start again without a token.",
    )


def too_many_calls(whose: str, seconds: float) -> PayCenterError:
    """The call was not begun, because as many are in progress as are allowed. It may be repeated after `seconds`."""
    return PayCenterError(
        Reason.TOO_MANY_CALLS,
        f"Too many calls of {whose} are in progress or came within a second; nothing was begun. Repeat the call after the delay.",
        retry_after=seconds,
    )
