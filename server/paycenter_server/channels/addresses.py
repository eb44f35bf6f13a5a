"""Addresses of channels."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from paycenter_server.domain.addresses import is_public

GATEWAY_FIELD = "gateway_url"
"""The configuration field that replaces the vendor's address."""


@lru_cache(maxsize=1024)  # each submit asks it about the callback URL of its channel
def is_gateway(value: str) -> bool:
    """Whether requests may be sent to this address: https, or http on this machine; without credentials, query or fragment."""
    try:
        parts = urlsplit(value)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        good = parts.scheme == "https" or (parts.scheme == "http" and local)
        plain = not parts.query and not parts.fragment and parts.username is None
        return bool(good and parts.hostname and parts.port != 0 and plain)
    except ValueError:
        return False


def is_public_gateway(value: str) -> bool:
    """Whether requests may be sent to this address in production: https, not this machine, not private, not link-local."""
    if not is_gateway(value) or urlsplit(value).scheme != "https":
        return False
    host = (urlsplit(value).hostname or "").rstrip(".")
    try:
        return is_public(host)
    except ValueError:  # a name; names of this machine and of the local network are not public
        return "." in host and not host.endswith((".localhost", ".local", ".internal", ".lan", ".home.arpa"))


def without_credentials(value: str) -> str:
    """The address without user name and password, in the form that may be shown."""
    parts = urlsplit(value)
    if "@" not in parts.netloc:
        return value
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
