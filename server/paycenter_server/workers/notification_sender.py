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

from paycenter_server.domain.addresses import is_public, parse_ip, reached_address
from paycenter_server.domain.guard import refuse_in_transaction
from paycenter_server.services.context import Clock
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.workers.notification_posts import Answer, OtherAiohttpError, Posts, SessionPosts

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
                found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, ValueError, TimeoutError):
            return f"the host {target.host!r} cannot be resolved now"
        refused = sorted({str(info[4][0]) for info in found if not self.permits(str(info[4][0]))})
        return f"{BLOCKED} ({', '.join(refused)})" if refused else ""

    def socket_factory(self, info: Any) -> socket.socket:
        """A socket for aiohttp's connector; ForbiddenAddressError if the address is not permitted."""
        family, kind, proto, _, sockaddr = info
        if not self.permits(sockaddr[0]):
            raise ForbiddenAddressError(f"{BLOCKED} ({sockaddr[0]})")
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made


class AiohttpNotificationSender:
    """See `services.notifications_delivery.NotificationSender`."""

    def __init__(
        self,
        guard: AddressGuard,
        clock: Clock,
        *,
        timeout: float = TIMEOUT,
        posts: Callable[[Callable[[Any], socket.socket], float], Posts] = Posts,
    ) -> None:
        self._guard = guard
        self._clock = clock
        self._timeout = timeout
        self._make = posts
        self._posts: Posts | None = None
        self._by_session: SessionPosts | None = None

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        """The answer, at most 64 KiB of it; without an answer, status 0 and the cause."""
        refuse_in_transaction()
        try:
            answer = await self._post(url, headers, body)
        except TimeoutError:
            return DeliveryResponse(0, f"no answer within {self._timeout:g} seconds")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # aiohttp wraps the error of the socket factory, and joins the texts of the errors of several addresses.
            if BLOCKED in str(getattr(error, "os_error", error)):
                return DeliveryResponse(0, f"{BLOCKED} ({yarl.URL(url).host})", blocked=True)
            return DeliveryResponse(0, f"{type(error).__name__}: {error}"[:500])
        retry_after = self._retry_after(answer.headers.get("Retry-After", "")) if answer.status in (429, 503) else None
        return DeliveryResponse(answer.status, answer.body.decode("utf-8", "replace"), retry_after)

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        # A literal address is not resolved, but goes through the same socket factory.
        if self._by_session is None:
            if self._posts is None:
                self._posts = self._make(self._guard.socket_factory, self._timeout)
            try:
                return await self._posts.post(url, headers, body, MAX_ANSWER)
            except (AttributeError, TypeError) as error:
                # `Posts` uses parts of aiohttp that are not documented, and this version has others.
                self._use_session(error)
            except OtherAiohttpError as error:
                self._use_session(error)
                raise
        assert self._by_session is not None
        return await self._by_session.post(url, headers, body, MAX_ANSWER)

    def _use_session(self, error: Exception) -> None:
        if self._by_session is None:
            action = "notifications are sent, but need more processor time; report this version of aiohttp"
            log.error("aiohttp_has_changed", version=aiohttp.__version__, why=f"{type(error).__name__}: {error}", action=action)
            self._by_session = SessionPosts(self._guard.socket_factory, self._timeout)

    def _retry_after(self, value: str) -> float | None:
        if value.isascii() and value.isdigit():
            return float(min(int(value[:9]), 86_400))
        try:
            return max(0.0, (parsedate_to_datetime(value) - self._clock.now()).total_seconds())
        except (ValueError, TypeError):
            return None

    async def aclose(self) -> None:
        """Close the connections."""
        for posts in (self._posts, self._by_session):
            if posts is not None:
                await posts.aclose()
