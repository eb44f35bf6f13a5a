"""Sends notifications over HTTP: one pool of connections, no redirects, no connections to private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import structlog
import yarl

from paycenter_server.deadlines import Deadlines
from paycenter_server.domain.addresses import is_public, parse_ip, reached_address
from paycenter_server.domain.guard import refuse_in_transaction
from paycenter_server.host_names import HostNames
from paycenter_server.http_requests import Client, PoolRequests, Requests, small_socket
from paycenter_server.services.context import Clock
from paycenter_server.services.notifications_delivery import DeliveryResponse

log = structlog.get_logger(__name__)
TIMEOUT = 10.0
MAX_ANSWER = 64 * 1024
BLOCKED = "blocked: private address, allow its network in PAYCENTER_NOTIFICATION_ALLOWED_NETWORKS"
_RESOLVE_SECONDS = 2.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ForbiddenAddressError(OSError):
    """A notification address that is private and not allowed by network."""


def parse_networks(text: str) -> list[Network]:
    """The networks of a comma separated list in CIDR notation; ValueError if an item is not a network."""
    return [ipaddress.ip_network(item.strip()) for item in text.split(",") if item.strip()]


class AddressGuard:
    """Refuses to connect to what is not a public address, unless its network is allowed.

    It checks the address of the connection, after name resolution, so a name that changes its address passes no check.
    """

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = tuple(allowed)
        self.names = HostNames()

    def permits(self, address: str) -> bool:
        """Whether a connection to this IP address may be made."""
        given = parse_ip(address)
        ips = {given, reached_address(given)}
        if any(ip in network for ip in ips for network in self._allowed if ip.version == network.version):
            return True
        return is_public(address)

    async def problem(self, url: str) -> str:
        """See `services.apps.AddressCheck`. A host has a problem if any of its addresses is not permitted."""
        target = yarl.URL(url)
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                found = await self.names.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, ValueError, TimeoutError):
            return f"the host {target.host!r} cannot be resolved now"
        refused = sorted({str(info[4][0]) for info in found if not self.permits(str(info[4][0]))})
        return f"{BLOCKED} ({', '.join(refused)})" if refused else ""

    def socket_factory(self, info: Any) -> socket.socket:
        """A socket for aiohttp's connector; ForbiddenAddressError if the address is not permitted."""
        address = info[4][0]
        if not self.permits(address):
            raise ForbiddenAddressError(f"{BLOCKED} ({address})")
        return small_socket(info)


class AiohttpNotificationSender:
    """See `services.notifications_delivery.NotificationSender`."""

    def __init__(
        self,
        guard: AddressGuard,
        clock: Clock,
        *,
        timeout: float = TIMEOUT,
        requests: Callable[..., Requests] = PoolRequests,
    ) -> None:
        """`timeout`: of a notification, in seconds. `requests`: for tests."""
        # A literal address is not resolved, but goes through the same socket factory.
        self._guard = guard
        self._client = Client(self._connector, first=requests)
        self._clock = clock
        self._timeout = timeout
        self._deadlines = Deadlines(timeout)

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        """The answer, at most 64 KiB of it; without an answer, status 0 and the cause."""
        refuse_in_transaction()
        try:
            with self._deadlines.next():
                answer = await self._client.send("POST", url, (("accept", "*/*"), *headers.items()), body, MAX_ANSWER)
        except TimeoutError:
            return DeliveryResponse(0, f"no answer within {self._timeout:g} seconds")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # aiohttp wraps the error of the socket factory, and joins the texts of the errors of several addresses.
            if BLOCKED in str(getattr(error, "os_error", error)):
                return DeliveryResponse(0, f"{BLOCKED} ({yarl.URL(url).host})", blocked=True)
            return DeliveryResponse(0, f"{type(error).__name__}: {error}"[:500])
        retry_after = self._retry_after(answer.headers.get("Retry-After", "")) if answer.status in (429, 503) else None
        return DeliveryResponse(answer.status, answer.body.decode("utf-8", "replace"), retry_after)

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, resolver=self._guard.names.resolver(), socket_factory=self._guard.socket_factory)

    def _retry_after(self, value: str) -> float | None:
        if value.isascii() and value.isdigit():
            return float(min(int(value[:9]), 86_400))
        try:
            return max(0.0, (parsedate_to_datetime(value) - self._clock.now()).total_seconds())
        except (ValueError, TypeError, OverflowError):
            return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
