"""Client of PayCenter: typed calls, typed errors, and a verifier for its notifications.

    from paycenter import PayCenter, NotificationVerifier

`PayCenter` is blocking, `AsyncPayCenter` is for asyncio. Both have the same methods. Amounts are whole fen (`paycenter.money`
converts yuan). The client object has all state; the package has none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from paycenter.version import VERSION

if TYPE_CHECKING:
    from paycenter.aio import AsyncPayCenter
    from paycenter.client import PayCenter
    from paycenter.errors import PayCenterError, WaitTimeoutError
    from paycenter.notifications import Notification, NotificationError, NotificationVerifier
    from paycenter.reasons import Reason
    from paycenter.states import AttemptState, DisplayMode, NotificationState, NotificationType, OrderState, RefundState
    from paycenter.v1.pay_notification_service_pb2 import PayNotification
    from paycenter.v1.pay_order_service_pb2 import PayOrder
    from paycenter.v1.pay_refund_service_pb2 import PayRefund

__version__ = VERSION

__all__ = [
    "AsyncPayCenter",
    "AttemptState",
    "DisplayMode",
    "Notification",
    "NotificationState",
    "PayNotification",
    "NotificationType",
    "OrderState",
    "PayCenter",
    "PayCenterError",
    "PayOrder",
    "PayRefund",
    "Reason",
    "RefundState",
    "WaitTimeoutError",
    "NotificationError",
    "NotificationVerifier",
]

_PLACES = {
    "paycenter.aio": ("AsyncPayCenter",),
    "paycenter.client": ("PayCenter",),
    "paycenter.errors": ("PayCenterError", "WaitTimeoutError"),
    "paycenter.reasons": ("Reason",),
    "paycenter.states": ("AttemptState", "DisplayMode", "NotificationState", "NotificationType", "OrderState", "RefundState"),
    "paycenter.v1.pay_notification_service_pb2": ("PayNotification",),
    "paycenter.v1.pay_order_service_pb2": ("PayOrder",),
    "paycenter.v1.pay_refund_service_pb2": ("PayRefund",),
    "paycenter.notifications": ("Notification", "NotificationError", "NotificationVerifier"),
}


def __getattr__(name: str) -> object:
    # Loaded on first use: a process that only verifies notifications needs no gRPC, and the server needs only the stubs.
    for place, names in _PLACES.items():
        if name in names:
            return vars(import_module(place))[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
