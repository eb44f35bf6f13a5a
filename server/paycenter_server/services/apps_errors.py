"""The errors about apps (see `services/errors.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from paycenter_server.domain.errors import PayCenterError, Reason


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


def app_changed(names: Sequence[str]) -> PayCenterError:
    """Fields of the app have other values than the second operator was shown."""
    return PayCenterError(
        Reason.APP_CHANGED,
        f"The app has changed since this was requested ({', '.join(names)}); refuse it, and request it again if it is needed.",
    )


def app_has_orders() -> PayCenterError:
    """The app has orders and cannot be deleted."""
    return PayCenterError(Reason.APP_HAS_ORDERS, "The app has pay orders and cannot be deleted; disable it instead.")


def app_has_refunds() -> PayCenterError:
    """The app has refunds and cannot be deleted."""
    return PayCenterError(Reason.APP_HAS_REFUNDS, "The app has refunds and cannot be deleted; disable it instead.")
