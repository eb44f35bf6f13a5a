"""Short names of the states: `order.state == OrderState.SUCCESS`, and `OrderState.name(order.state) == "SUCCESS"`."""

from collections.abc import Iterable
from typing import Final

from paycenter.v1 import pay_notification_service_pb2 as notifications
from paycenter.v1 import pay_order_service_pb2 as orders
from paycenter.v1 import pay_refund_service_pb2 as refunds


class OrderState:
    """The state of an order."""

    WAITING: Final = orders.PAY_ORDER_STATE_WAITING
    SUCCESS: Final = orders.PAY_ORDER_STATE_SUCCESS
    REFUND: Final = orders.PAY_ORDER_STATE_REFUND
    CLOSED: Final = orders.PAY_ORDER_STATE_CLOSED

    @staticmethod
    def name(value: orders.PayOrderState.ValueType) -> str:
        """`SUCCESS` for 2. A number that this client does not know is returned as text."""
        return _name(orders.PayOrderState.items(), value, "PAY_ORDER_STATE_")


class AttemptState:
    """The state of an attempt."""

    WAITING: Final = orders.PAY_ATTEMPT_STATE_WAITING
    SUCCESS: Final = orders.PAY_ATTEMPT_STATE_SUCCESS
    CLOSED: Final = orders.PAY_ATTEMPT_STATE_CLOSED
    UNKNOWN: Final = orders.PAY_ATTEMPT_STATE_UNKNOWN

    @staticmethod
    def name(value: orders.PayAttemptState.ValueType) -> str:
        """Like `OrderState.name`."""
        return _name(orders.PayAttemptState.items(), value, "PAY_ATTEMPT_STATE_")


class DisplayMode:
    """How the content of a submit is shown to the payer."""

    URL: Final = orders.DISPLAY_MODE_URL
    FORM: Final = orders.DISPLAY_MODE_FORM
    QR_CODE: Final = orders.DISPLAY_MODE_QR_CODE
    BAR_CODE: Final = orders.DISPLAY_MODE_BAR_CODE
    APP: Final = orders.DISPLAY_MODE_APP

    @staticmethod
    def name(value: orders.DisplayMode.ValueType) -> str:
        """Like `OrderState.name`."""
        return _name(orders.DisplayMode.items(), value, "DISPLAY_MODE_")


class RefundState:
    """The state of a refund."""

    WAITING: Final = refunds.PAY_REFUND_STATE_WAITING
    SUCCESS: Final = refunds.PAY_REFUND_STATE_SUCCESS
    FAILURE: Final = refunds.PAY_REFUND_STATE_FAILURE

    @staticmethod
    def name(value: refunds.PayRefundState.ValueType) -> str:
        """Like `OrderState.name`."""
        return _name(refunds.PayRefundState.items(), value, "PAY_REFUND_STATE_")


class NotificationState:
    """The state of a notification."""

    WAITING: Final = notifications.NOTIFICATION_STATE_WAITING
    SUCCESS: Final = notifications.NOTIFICATION_STATE_SUCCESS
    FAILURE: Final = notifications.NOTIFICATION_STATE_FAILURE
    REQUEST_SUCCESS: Final = notifications.NOTIFICATION_STATE_REQUEST_SUCCESS
    REQUEST_FAILURE: Final = notifications.NOTIFICATION_STATE_REQUEST_FAILURE
    SUPERSEDED: Final = notifications.NOTIFICATION_STATE_SUPERSEDED

    @staticmethod
    def name(value: notifications.NotificationState.ValueType) -> str:
        """Like `OrderState.name`."""
        return _name(notifications.NotificationState.items(), value, "NOTIFICATION_STATE_")


class NotificationType:
    """The kind of object that a notification is about."""

    ORDER: Final = notifications.NOTIFICATION_TYPE_ORDER
    REFUND: Final = notifications.NOTIFICATION_TYPE_REFUND
    CASE: Final = notifications.NOTIFICATION_TYPE_CASE

    @staticmethod
    def name(value: notifications.NotificationType.ValueType) -> str:
        """Like `OrderState.name`."""
        return _name(notifications.NotificationType.items(), value, "NOTIFICATION_TYPE_")


def _name(items: Iterable[tuple[str, int]], value: int, prefix: str) -> str:
    for name, number in items:
        if number == value:
            return name.removeprefix(prefix)
    return str(value)
