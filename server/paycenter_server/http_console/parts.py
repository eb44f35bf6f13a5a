"""The use cases that the pages call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.channels.registry import Registry
from paycenter_server.services.accounts import Accounts
from paycenter_server.services.approvals_desk import ApprovalDesk
from paycenter_server.services.apps import Apps
from paycenter_server.services.audit import Audit
from paycenter_server.services.cases_decisions import CaseDecisions
from paycenter_server.services.cases_desk import CaseDesk
from paycenter_server.services.cashier import Cashier
from paycenter_server.services.channels import Channels
from paycenter_server.services.channels_probe import ChannelProbe
from paycenter_server.services.credentials import Credentials
from paycenter_server.services.exports import Exports
from paycenter_server.services.health import Health
from paycenter_server.services.identity import Identity
from paycenter_server.services.notifications import Notifications
from paycenter_server.services.notifications_trial import NotificationTrial
from paycenter_server.services.operators import Operators
from paycenter_server.services.operators_totp import Totp
from paycenter_server.services.orders import Orders
from paycenter_server.services.overview import Overview
from paycenter_server.services.refunds import Refunds
from paycenter_server.services.search import Search
from paycenter_server.services.sessions import Sessions
from paycenter_server.services.timeline import Timelines
from paycenter_server.services.views import Views


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the check list for production. `words`: what was found, and what to do if it is not good."""

    name: str
    good: bool
    words: str


@dataclass(frozen=True, slots=True)
class Parts:
    """The use cases. `new_key`: a new UUIDv7. `version`: of PayCenter. `grpc_address`: for the snippets. `checks`: what the
    settings of this process say about production."""

    now: Callable[[], datetime]
    new_key: Callable[[], UUID]
    version: str
    grpc_address: str
    registry: Registry
    checks: Sequence[Check]
    identity: Identity
    operators: Operators
    totp: Totp
    login_sessions: Sessions
    audit: Audit
    orders: Orders
    cashier: Cashier
    refunds: Refunds
    timelines: Timelines
    notifications: Notifications
    notification_trial: NotificationTrial
    apps: Apps
    credentials: Credentials
    accounts: Accounts
    channels: Channels
    channel_probe: ChannelProbe
    case_desk: CaseDesk
    case_decisions: CaseDecisions
    approvals: ApprovalDesk
    exports: Exports
    views: Views
    search: Search
    overview: Overview
    health: Health
