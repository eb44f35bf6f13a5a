"""Addresses of channels."""

from __future__ import annotations

from urllib.parse import urlsplit


def is_gateway(value: str) -> bool:
    """Whether requests may be sent there: https, or http on this machine; without a query or a fragment."""
    try:
        parts = urlsplit(value)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        good = parts.scheme == "https" or (parts.scheme == "http" and local)
        return bool(good and parts.hostname and parts.port != 0 and not parts.query and not parts.fragment)
    except ValueError:
        return False
