"""The errors about credentials, and about what a caller may do (see `services/errors.py`)."""

from __future__ import annotations

from paycenter_server.domain.errors import PayCenterError, Reason


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
