"""Web addresses that merchants name: where to notify, where to return."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from paycenter_server.simulator.inputs import clean

__all__ = ["calls_back_safely", "web_address"]

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")


def web_address(text: str) -> SplitResult | None:
    """The parts of an absolute http or https address; None if it is anything else."""
    if _FORBIDDEN.search(text) or not clean(text):
        return None
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return None
    return parts if known else None


def calls_back_safely(parts: SplitResult) -> bool:
    """https, or plain http to this machine: WeChat takes https only, and receivers of tests listen on loopback."""
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
