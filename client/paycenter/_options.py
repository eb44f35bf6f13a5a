"""How a client connects: channel arguments, retries, credentials."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from paycenter.version import VERSION

# Calls whose repetition changes nothing: creates are idempotent by their natural key, the rest answers the same again.
# Not here: calls that show a secret once or fail when they are repeated (CreatePayApp, RotateNotificationSecret, deletes, resend).
_REPEATABLE = {
    "PayOrderService": (),
    "PayRefundService": (),
    "PayAppService": ("UpdatePayApp", "GetPayApp", "ListPayApps"),
    "PayCredentialService": (
        "ListAppCredentials",
        "DisableAppCredential",
        "ListOperatorCredentials",
        "DisableOperatorCredential",
    ),
    "PayOperatorService": (
        "UpdatePayOperator",
        "ListPayOperators",
        "UnlockPayOperator",
        "ListSessions",
        "ListOwnSessions",
        "ListOwnCredentials",
        "DisableOwnCredential",
    ),
    "PayAuditService": (),
    "PayApprovalService": ("ListPayApprovals", "GetPayApproval", "ApprovePayApproval"),
    "PayChannelService": ("UpdatePayChannel", "GetPayChannel", "ListPayChannels", "ListEnabledChannelCodes"),
    "PayAccountService": ("UpdatePayAccount", "GetPayAccount", "ListPayAccounts"),
    "PayCaseService": ("ListPayCases", "GetPayCase", "AssignPayCase"),
    "PayNotificationService": ("ListPayNotifications", "GetPayNotification"),
}
_MOST_ATTEMPTS = 5  # gRPC's own limit


@dataclass(frozen=True)
class Options:
    """What both kinds of client are made from. `tls`: False, True (the system's root certificates) or root certificates in PEM."""

    target: str
    key_id: str
    key_secret: str = field(repr=False)
    tls: bool | bytes
    timeout: float
    attempts: int
    keepalive: float
    channel_options: Sequence[tuple[str, Any]]

    def __post_init__(self) -> None:
        if not self.key_id or not self.key_secret:
            raise ValueError("key_id and key_secret are needed; an operator makes them with CreatePayApp or CreateAppCredential")
        if ":" in self.key_id:
            raise ValueError("a key_id has no colon")
        if self.timeout <= 0 or self.keepalive <= 0:
            raise ValueError("timeout and keepalive are seconds, more than 0")
        if not 1 <= self.attempts <= _MOST_ATTEMPTS:
            raise ValueError(f"attempts is 1 (no retry) to {_MOST_ATTEMPTS}")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries. As metadata and not as call credentials, because those need TLS."""
        pair = base64.b64encode(f"{self.key_id}:{self.key_secret}".encode()).decode()
        return (("authorization", f"Basic {pair}"),)

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """None without TLS."""
        if self.tls is False:
            return None
        return grpc.ssl_channel_credentials(root_certificates=None if self.tls is True else self.tls)

    def arguments(self) -> list[tuple[str, Any]]:
        """The channel's arguments; the caller's own come last and win."""
        ours: dict[str, Any] = {
            "grpc.primary_user_agent": f"paycenter-client/{VERSION}",
            "grpc.service_config": service_config(self.attempts),
            "grpc.enable_retries": 1 if self.attempts > 1 else 0,
            # A connection that died without a word is found before the next call waits on it. PayCenter allows a ping every 10 s.
            "grpc.keepalive_time_ms": int(self.keepalive * 1000),
            "grpc.keepalive_timeout_ms": 10_000,
            "grpc.keepalive_permit_without_calls": 1,
            # An idle connection is closed before firewalls on the way forget it.
            "grpc.client_idle_timeout_ms": 240_000,
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.min_reconnect_backoff_ms": 1_000,
            # While PayCenter is restarted, a connection is tried every second, so that the next attempt of a call finds it.
            "grpc.max_reconnect_backoff_ms": 1_000,
            # Each client has its own connection, so closing one cannot disturb another.
            "grpc.use_local_subchannel_pool": 1,
        }
        ours.update(self.channel_options)
        return list(ours.items())


def service_config(attempts: int) -> str:
    """The service config (gRFC A6) as JSON: UNAVAILABLE and CANCELLED are tried again after 0.5, 1.5 and 4 s.

    A server that is stopped answers UNAVAILABLE. gRPC's own server ends with CANCELLED what arrives while it closes its
    connections, and what has waited for 2 s because the server has more calls than it can begin.
    gRPC does not repeat a call that the caller cancelled. The attempts last longer than the restart of a server. gRPC obeys
    the server's `grpc-retry-pushback-ms` instead of the backoff. All attempts share the call's deadline. The throttle stops
    repetitions after 500 failures that no successes balance: a restart under load causes some for every waiting caller.
    """
    names = [
        {"service": f"paycenter.v1.{service}", **({"method": method} if method else {})}
        for service, methods in _REPEATABLE.items()
        for method in methods or ("",)
    ]
    policy = {
        "maxAttempts": attempts,
        "initialBackoff": "0.5s",
        "maxBackoff": "4s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    config: dict[str, Any] = {"methodConfig": [{"name": names, "retryPolicy": policy}]}
    config["retryThrottling"] = {"maxTokens": 1000, "tokenRatio": 1}
    return json.dumps(config if attempts > 1 else {})
