"""The errors about notifications (see `services/errors.py`)."""

from __future__ import annotations

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.notifications import PayNotification


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
