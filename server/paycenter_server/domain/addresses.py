"""Which IP addresses are public. Standard library only."""

from __future__ import annotations

import ipaddress


def is_public(address: str) -> bool:
    """Whether an IP address is globally reachable. ValueError if it is not an IP address."""
    return ipaddress.ip_address(address).is_global
