"""The errors about channels (see `services/errors.py`)."""

from __future__ import annotations

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.services.errors import ASK_AGAIN_SECONDS


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


def account_unusable(code: str) -> PayCenterError:
    """The codec of the channel cannot be made: a key of its account cannot be read."""
    return PayCenterError(
        Reason.INTERNAL,
        f"The keys of the account of the channel {code!r} cannot be read. The log of PayCenter says why (account_unusable).",
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
