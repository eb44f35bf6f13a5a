"""Which IP addresses are public: requests to addresses that others choose may go to these only."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# An IPv4 address is reached through these: compatible addresses (RFC 4291) and NAT64 (RFC 6052).
_IPV4_IN_IPV6 = tuple(ipaddress.IPv6Network(text) for text in ("::/96", "64:ff9b::/96"))
# From the IANA registries of special-purpose addresses; `is_global` of Python 3.11 takes some of them for public.
_SPECIAL_IPV4 = tuple(ipaddress.IPv4Network(text) for text in ("192.0.0.0/24",))
_SPECIAL_IPV6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "64:ff9b:1::/48",  # NAT64 of a network's own, RFC 8215
        "2001::/23",  # protocol assignments, RFC 2928
        "3fff::/20",  # documentation, RFC 9637
        "5f00::/16",  # segment routing, RFC 9602
        "fec0::/10",  # site-local, RFC 3879
    )
)


_PORTS = {"http": 80, "https": 443}


@lru_cache(maxsize=1024)
def endpoint_of(url: str) -> str:
    """The endpoint of an http or https URL: `scheme://host:port` in lower case, with the scheme's port if the URL names none.

    ValueError if the URL has no host or no valid port.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    if not host or port is None:
        raise ValueError(f"{url!r} is not an http or https URL with a host")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def parse_ip(text: str) -> IpAddress:
    """ValueError if this is no IP address. A zone ("%eth0") is left out."""
    return ipaddress.ip_address(text.partition("%")[0])


def reached_address(ip: IpAddress) -> IpAddress:
    """The IPv4 address that is reached through an IPv6 one: mapped, compatible, 6to4 or NAT64; otherwise the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.ipv4_mapped is not None or any(ip in network for network in _IPV4_IN_IPV6):
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip


def is_public(ip: str) -> bool:
    """Whether an IP address can be that of a host in the Internet. ValueError if `ip` is no IP address, for example a name."""
    reached = reached_address(parse_ip(ip))
    if isinstance(reached, ipaddress.IPv4Address):
        special = any(reached in network for network in _SPECIAL_IPV4)
    else:
        special = any(reached in network for network in _SPECIAL_IPV6)
    return reached.is_global and not reached.is_multicast and not special
