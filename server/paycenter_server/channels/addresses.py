"""Addresses of channels."""

from __future__ import annotations

from urllib.parse import urlsplit

from paycenter_server.domain.addresses import is_public

GATEWAY_FIELD = "gateway_url"
"""The configuration field of every channel that may be sent to another address than the real one."""


def is_gateway(value: str) -> bool:
    """Whether requests may be sent there: https, or http on this machine; without credentials, query or fragment."""
    try:
        parts = urlsplit(value)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        good = parts.scheme == "https" or (parts.scheme == "http" and local)
        plain = not parts.query and not parts.fragment and parts.username is None
        return bool(good and parts.hostname and parts.port != 0 and plain)
    except ValueError:
        return False


def is_public_gateway(value: str) -> bool:
    """Whether requests may be sent there in production: https, and neither this machine nor a private or link-local address."""
    if not is_gateway(value) or urlsplit(value).scheme != "https":
        return False
    host = (urlsplit(value).hostname or "").rstrip(".")
    try:
        return is_public(host)
    except ValueError:  # a name; names of this machine and of the local network are not public
        return "." in host and not host.endswith((".localhost", ".local", ".internal", ".lan", ".home.arpa"))


def without_credentials(value: str) -> str:
    """The address as it may be shown: a user name and a password in it are left out."""
    parts = urlsplit(value)
    if "@" not in parts.netloc:
        return value
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
