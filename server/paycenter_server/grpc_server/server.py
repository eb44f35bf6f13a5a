"""The gRPC server: the services, health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paycenter.v1 import (
    pay_account_service_pb2,
    pay_account_service_pb2_grpc,
    pay_app_service_pb2,
    pay_app_service_pb2_grpc,
    pay_approval_service_pb2,
    pay_approval_service_pb2_grpc,
    pay_audit_service_pb2,
    pay_audit_service_pb2_grpc,
    pay_case_service_pb2,
    pay_case_service_pb2_grpc,
    pay_channel_service_pb2,
    pay_channel_service_pb2_grpc,
    pay_credential_service_pb2,
    pay_credential_service_pb2_grpc,
    pay_notification_service_pb2,
    pay_notification_service_pb2_grpc,
    pay_operator_service_pb2,
    pay_operator_service_pb2_grpc,
    pay_order_service_pb2,
    pay_order_service_pb2_grpc,
    pay_refund_service_pb2,
    pay_refund_service_pb2_grpc,
)

from paycenter_server.grpc_server.accounts import AccountServicer
from paycenter_server.grpc_server.approvals import ApprovalServicer
from paycenter_server.grpc_server.apps import AppServicer
from paycenter_server.grpc_server.audit_entries import AuditServicer
from paycenter_server.grpc_server.calls import Calls
from paycenter_server.grpc_server.cases import CaseServicer
from paycenter_server.grpc_server.channels import ChannelServicer
from paycenter_server.grpc_server.credentials import CredentialServicer
from paycenter_server.grpc_server.health import HealthServicer
from paycenter_server.grpc_server.notifications import NotificationServicer
from paycenter_server.grpc_server.operators import OperatorServicer
from paycenter_server.grpc_server.orders import OrderServicer
from paycenter_server.grpc_server.reflection import add_reflection
from paycenter_server.grpc_server.refunds import RefundServicer
from paycenter_server.grpc_server.unary import Unary
from paycenter_server.services.accounts import Accounts
from paycenter_server.services.approvals_desk import ApprovalDesk
from paycenter_server.services.apps import Apps
from paycenter_server.services.attempts_submission import Submission
from paycenter_server.services.audit import Audit
from paycenter_server.services.cases_decisions import CaseDecisions
from paycenter_server.services.cases_desk import CaseDesk
from paycenter_server.services.cashier import Cashier
from paycenter_server.services.channels import Channels
from paycenter_server.services.credentials import Credentials
from paycenter_server.services.health import Health
from paycenter_server.services.identity import Identity
from paycenter_server.services.limits import Admission, Limits
from paycenter_server.services.notifications import Notifications
from paycenter_server.services.operators import Operators
from paycenter_server.services.orders import Orders
from paycenter_server.services.refunds import Refunds
from paycenter_server.services.sessions import Sessions
from paycenter_server.services.timeline import Timelines

log = structlog.get_logger(__name__)

LIVENESS = "liveness"
"""The name that the health service answers SERVING for while the process runs, whatever its database does."""
MOST_BYTES = 256 * 1024
MOST_CONNECTIONS = 1000
CONNECTION_CALLS = 1000
QUEUE_SECONDS = 2
"""A call that has waited so long in gRPC, before this process could begin it, is ended with CANCELLED and has done nothing.
Otherwise a server with more calls than it can answer would answer each one after its caller has given up."""
_HEALTH_SECONDS = 2.0
_GRACE_SECONDS = 10.0
# Shorter than the time after which a refused call is repeated, so that the repetition meets the next server.
_QUIET_SECONDS = 0.1
_REFUSE_SECONDS = 1.5
_OPTIONS = (
    # The largest request, a channel with its keys and certificates, has some 30 KiB. With the limits of calls this bounds the
    # memory.
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 5),
)
_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (pay_order_service_pb2, "PayOrderService"),
        (pay_refund_service_pb2, "PayRefundService"),
        (pay_app_service_pb2, "PayAppService"),
        (pay_channel_service_pb2, "PayChannelService"),
        (pay_account_service_pb2, "PayAccountService"),
        (pay_credential_service_pb2, "PayCredentialService"),
        (pay_case_service_pb2, "PayCaseService"),
        (pay_notification_service_pb2, "PayNotificationService"),
        (pay_operator_service_pb2, "PayOperatorService"),
        (pay_audit_service_pb2, "PayAuditService"),
        (pay_approval_service_pb2, "PayApprovalService"),
    )
)
_NAMES = tuple(service.full_name for service in _SERVICES)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Parts:
    """The use cases that are served."""

    identity: Identity
    orders: Orders
    submission: Submission
    timelines: Timelines
    cashier: Cashier
    refunds: Refunds
    apps: Apps
    channels: Channels
    accounts: Accounts
    credentials: Credentials
    notifications: Notifications
    case_desk: CaseDesk
    case_decisions: CaseDecisions
    health: Health
    operators: Operators
    sessions: Sessions
    audit: Audit
    approval_desk: ApprovalDesk


class Server:
    """The server of one process. `port` is the bound port, also where the address has port 0."""

    def __init__(
        self,
        parts: Parts,
        address: str,
        *,
        tls: Tls | None,
        with_reflection: bool,
        health_seconds: float = _HEALTH_SECONDS,
        limits: Limits | None = None,
        connections: int = MOST_CONNECTIONS,
        connection_calls: int = CONNECTION_CALLS,
        queue_seconds: int = QUEUE_SECONDS,
        shared_port: bool = False,
    ) -> None:
        """`shared_port`: other processes of the same `serve` listen on the port too. `connection_calls`: of each connection at the
        same time; its client holds further ones back (HTTP/2, SETTINGS_MAX_CONCURRENT_STREAMS)."""
        self._checks = parts.health
        self._health_seconds = health_seconds
        self.admission = Admission(limits or Limits())
        self._calls = Calls(parts.identity, self.admission)
        self.turns = self._calls.turns
        options = (
            *_OPTIONS,
            # Otherwise the kernel would distribute the calls over every server that listens on the port, also a forgotten one.
            ("grpc.so_reuseport", int(shared_port)),
            ("grpc.max_allowed_incoming_connections", connections),
            # What arrives faster than it can be refused waits in gRPC.
            ("grpc.max_concurrent_streams", connection_calls),
            # gRPC does this in C++, when it hands over the next call, without a step in Python.
            ("grpc.server_max_unrequested_time_in_server", queue_seconds),
            # Otherwise calls that have ended count until gRPC has freed them, and it resets calls of clients that keep to the limit
            # (REFUSED_STREAM, which callers see as UNAVAILABLE).
            ("grpc.http.overload_protection", 0),
        )
        self._server = grpc.aio.server(options=options)
        # The same methods for a transport other than gRPC.
        self.unary = Unary(self._calls, _SERVICES)
        servicers: tuple[tuple[Callable[[Any, Any], None], object], ...] = (
            (
                pay_order_service_pb2_grpc.add_PayOrderServiceServicer_to_server,
                OrderServicer(parts.orders, parts.submission, parts.timelines, parts.cashier),
            ),
            (pay_refund_service_pb2_grpc.add_PayRefundServiceServicer_to_server, RefundServicer(parts.refunds)),
            (pay_app_service_pb2_grpc.add_PayAppServiceServicer_to_server, AppServicer(parts.apps)),
            (pay_channel_service_pb2_grpc.add_PayChannelServiceServicer_to_server, ChannelServicer(parts.channels)),
            (pay_account_service_pb2_grpc.add_PayAccountServiceServicer_to_server, AccountServicer(parts.accounts)),
            (pay_credential_service_pb2_grpc.add_PayCredentialServiceServicer_to_server, CredentialServicer(parts.credentials)),
            (
                pay_notification_service_pb2_grpc.add_PayNotificationServiceServicer_to_server,
                NotificationServicer(parts.notifications),
            ),
            (
                pay_case_service_pb2_grpc.add_PayCaseServiceServicer_to_server,
                CaseServicer(parts.case_desk, parts.case_decisions),
            ),
            (
                pay_operator_service_pb2_grpc.add_PayOperatorServiceServicer_to_server,
                OperatorServicer(parts.operators, parts.sessions, parts.credentials),
            ),
            (pay_audit_service_pb2_grpc.add_PayAuditServiceServicer_to_server, AuditServicer(parts.audit)),
            (pay_approval_service_pb2_grpc.add_PayApprovalServiceServicer_to_server, ApprovalServicer(parts.approval_desk)),
        )
        for add, servicer in servicers:
            add(servicer, self.unary)
        self._server.add_generic_rpc_handlers((self._calls,))
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if with_reflection:
            add_reflection(self._server, (*_NAMES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name))
        if tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials([(tls.key.read_bytes(), tls.certificate.read_bytes())])
            self.port = self._server.add_secure_port(address, credentials)

    async def start(self) -> None:
        """Check the health once, then listen."""
        self._health.set((LIVENESS,), health_pb2.HealthCheckResponse.SERVING)
        self._set_health((await self._checks.check()).ready)
        await self._server.start()
        log.info("grpc_listening", port=self.port)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`. Then health is NOT_SERVING, new calls are refused, and running calls get 10 seconds to end."""
        watch = asyncio.create_task(self._watch())
        try:
            await stop.wait()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            # Not the liveness: a supervisor might end the running calls.
            self._set_health(False)
            await self._calls.refuse_calls(_QUIET_SECONDS, _REFUSE_SECONDS)
            self._health.end()
            await self._server.stop(_GRACE_SECONDS)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._health_seconds)
            self._set_health((await self._checks.check()).ready)

    def _set_health(self, healthy: bool) -> None:
        states = health_pb2.HealthCheckResponse
        self._health.set(("", *_NAMES), states.SERVING if healthy else states.NOT_SERVING)
