"""The errors about accounts (see `services/errors.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from paycenter_server.domain.accounts import PayAccount, Unsettled
from paycenter_server.domain.errors import PayCenterError, Reason


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
