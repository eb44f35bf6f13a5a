"""The errors that use cases return: a stable reason, a message, and what to do.

Those of one noun are in its own module (`orders_errors.py`); here are those of no single noun.
"""

from __future__ import annotations

from paycenter_server.domain.errors import PayCenterError, Reason

ASK_AGAIN_SECONDS = 3.0


def page_token_invalid() -> PayCenterError:
    """The page token was not given for a list with these filters."""
    return PayCenterError(
        Reason.PAGE_TOKEN_INVALID,
        "The page token does not belong to a list with these filters; start again without a token.",
    )


def too_many_exports(of_yours: int, of_all: int) -> PayCenterError:
    """The export was not begun, because so many of the operator, or of all, are in progress."""
    return PayCenterError(
        Reason.TOO_MANY_CALLS,
        f"Too many exports are in progress: {of_yours} of yours, {of_all} of all. Start it again when one has ended.",
    )


def too_many_calls(whose: str, seconds: float) -> PayCenterError:
    """The call was not begun, because as many are in progress as are allowed. It may be repeated after `seconds`."""
    return PayCenterError(
        Reason.TOO_MANY_CALLS,
        f"Too many calls of {whose} are in progress or came within a second; nothing was begun. Repeat the call after the delay.",
        retry_after=seconds,
    )
