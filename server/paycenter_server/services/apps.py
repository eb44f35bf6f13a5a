"""Administration of apps by operators."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol

from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.approvals import ApprovalKind, loosened
from paycenter_server.domain.apps import (
    NotificationSuccess,
    PayApp,
    SurplusPolicy,
    new_app,
    possible_policies,
    with_previous_secret,
)
from paycenter_server.domain.audit import changed
from paycenter_server.domain.cases import CaseKind
from paycenter_server.domain.money import MAX_AMOUNT
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.domain.validation import Check
from paycenter_server.services import apps_errors
from paycenter_server.services.approvals import Approvals, Approved, Wanted
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.services.credentials import make_credential
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.notifications_signing import secret_place
from paycenter_server.services.paging import Page, Pager
from paycenter_server.services.secrets import new_notification_secret
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import credentials as credential_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage.database import Connection, ForeignKeyViolation, UniqueViolation

_ROTATION = timedelta(days=1)
_URLS = {
    "order_notification_url": (NotificationType.ORDER, NotificationType.CASE),
    "refund_notification_url": (NotificationType.REFUND,),
}


class AddressCheck(Protocol):
    """Tells beforehand whether notifications to a URL will be blocked."""

    async def problem(self, url: str) -> str:
        """Why they will be blocked, or that the host cannot be resolved now; empty if there is no problem."""
        ...


@dataclass(frozen=True, slots=True)
class NewApp:
    """The values of a create request."""

    app_key: str
    name: str
    remark: str
    order_notification_url: str
    refund_notification_url: str
    surplus_policy: SurplusPolicy
    notification_success: NotificationSuccess
    case_policies: Mapping[str, str] = field(default_factory=dict)
    case_decision_limit: int | None = None
    refund_approval_limit: int | None = None
    channel_approval: bool = False


def _check_cases(check: Check, policies: Mapping[str, str], limit: int | None) -> None:
    """Check the policies of single kinds, and the limit above which a decision needs a second operator."""
    for kind, policy in policies.items():
        possible = [item.value for item in possible_policies(CaseKind(kind))]
        if policy not in possible:
            check.fail(f"case_policies.{kind}", f"{policy} makes no sense for this kind; possible: {', '.join(possible)}")
    if limit is not None and not 0 <= limit <= MAX_AMOUNT:
        check.fail("case_decision_limit", f"must be from 0 to {MAX_AMOUNT} minor units")


def _check_refund_limit(check: Check, limit: int | None) -> None:
    if limit is not None and not 0 <= limit <= MAX_AMOUNT:
        check.fail("refund_approval_limit", f"must be from 0 to {MAX_AMOUNT} minor units; 0 removes it")


@dataclass(frozen=True, slots=True)
class CreatedApp:
    """A new app with its notification secret and its first credential, which are shown only once."""

    app: PayApp
    notification_secret: str = field(repr=False)
    key_id: str
    key_secret: str = field(repr=False)
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class ListedApp:
    """An app and the codes of its enabled channels."""

    app: PayApp
    channel_codes: list[str]
    warnings: list[str] = field(default_factory=list)

    @property
    def id(self) -> Any:
        """The key for paging."""
        return self.app.id


class _NeedsApprovalError(Exception):
    """Ends the transaction of a change that needs a second operator. `app`: as it is before."""

    def __init__(self, app: PayApp) -> None:
        super().__init__()
        self.app = app


def audited(app: PayApp) -> dict[str, Any]:
    """What the audit keeps of an app: not its notification secrets."""
    names = (
        "name", "enabled", "remark", "order_notification_url", "refund_notification_url", "surplus_policy", "case_policies",
        "case_decision_limit", "refund_approval_limit", "channel_approval", "notification_success",
    )  # fmt: skip
    return {name: getattr(app, name) for name in names}


class Apps:
    """Create, read, change and delete apps; rotate notification secrets."""

    def __init__(self, context: Context, identity: Identity, addresses: AddressCheck, approvals: Approvals) -> None:
        self._context = context
        self._identity = identity
        self._approvals = approvals
        self._addresses = addresses

    async def _warnings(self, values: Mapping[str, Any]) -> list[str]:
        """A sentence for each URL among the values to which notifications will be blocked."""
        names = [name for name in _URLS if name in values]
        problems = await asyncio.gather(*(self._addresses.problem(values[name]) for name in names))
        return [f"{name}: {problem}" for name, problem in zip(names, problems, strict=True) if problem]

    async def create(self, caller: Caller, new: NewApp) -> CreatedApp:
        """Create an app. APP_EXISTS if the key exists. Secrets are not stored in clear text."""
        self._identity.require_operator(caller)
        check = Check()
        check.app_key("app_key", new.app_key)
        check.text("name", new.name, 64, minimum=1)
        check.text("remark", new.remark, 255)
        check.url("order_notification_url", new.order_notification_url, required=True)
        check.url("refund_notification_url", new.refund_notification_url, required=True)
        _check_cases(check, new.case_policies, new.case_decision_limit)
        _check_refund_limit(check, new.refund_approval_limit)
        check.done()
        now = self._context.now()
        key, notification_secret = self._context.new_key(now), new_notification_secret()
        app = new_app(
            key, now, app_key=new.app_key, name=new.name, remark=new.remark,
            order_notification_url=new.order_notification_url, refund_notification_url=new.refund_notification_url,
            surplus_policy=new.surplus_policy, case_policies=new.case_policies, case_decision_limit=new.case_decision_limit,
            refund_approval_limit=new.refund_approval_limit or None, channel_approval=new.channel_approval,
            notification_success=new.notification_success,
            notification_secret=self._context.box.seal(notification_secret, secret_place(key)),
        )  # fmt: skip
        credential, secret = make_credential(app, "first", now)
        try:
            async with self._context.database.transaction() as connection:
                await app_rows.insert_app(connection, app)
                await credential_rows.insert_credential(connection, credential)
                act = Act("PayAppService/CreatePayApp", new.app_key, new.app_key)
                await record(connection, caller, act, None, audited(app) | {"key_id": credential.key_id})
        except UniqueViolation:
            raise apps_errors.app_exists(new.app_key) from None
        urls = {name: getattr(app, name) for name in _URLS}
        return CreatedApp(app, notification_secret, credential.key_id, secret, await self._warnings(urls))

    async def update(
        self, caller: Caller, app_key: str, changes: Mapping[str, Any], *, approved: Approved | None = None
    ) -> ListedApp:
        """Change the given fields. Waiting notifications go to a new URL, except those with a URL of their own.

        APPROVAL_NEEDED, and the change waits, if it takes away what needs a second operator. `approved`: one has approved it.
        APP_CHANGED if what it changes has changed since it was requested.
        """
        self._identity.require_operator(caller)
        check = Check()
        if "name" in changes:
            check.text("name", changes["name"], 64, minimum=1)
        if "remark" in changes:
            check.text("remark", changes["remark"], 255)
        for name in ("order_notification_url", "refund_notification_url"):
            if name in changes:
                check.url(name, changes[name], required=True)
        _check_cases(check, changes.get("case_policies", {}), changes.get("case_decision_limit"))
        _check_refund_limit(check, changes.get("refund_approval_limit"))
        check.done()
        app = await self._identity.app_of(caller, app_key)
        endpoints = {name: endpoint_of(changes[name]) for name in _URLS if name in changes}
        if "refund_approval_limit" in changes:
            changes = {**changes, "refund_approval_limit": changes["refund_approval_limit"] or None}
        try:
            listed = await self._store(caller, app, changes, endpoints, approved)
        except _NeedsApprovalError as needed:
            before, after = changed(audited(needed.app), {**audited(needed.app), **changes})
            # Only what is shown is carried out: the console sends every field, and others may change meanwhile.
            shown, request = {"before": before, "after": after}, {"changes": after}
            raise await self._approvals.request(caller, Wanted(ApprovalKind.APP, app_key, request, shown, app=needed.app)) from None
        self._identity.forget_app(app_key)
        return replace(listed, warnings=await self._warnings(changes))

    async def _store(
        self, caller: Caller, app: PayApp, changes: Mapping[str, Any], endpoints: Mapping[str, str], approved: Approved | None
    ) -> ListedApp:
        app_key = app.app_key
        values = {**changes, **{name.replace("_url", "_endpoint"): endpoint for name, endpoint in endpoints.items()}}
        async with self._context.database.transaction() as connection:
            if approved is not None:
                await self._approvals.take(connection, approved)
            app = before = await app_rows.lock_app(connection, app.id) or app
            if approved is None and loosened(before, changes):
                raise _NeedsApprovalError(before)
            if approved is not None:
                self._refuse_changed(before, approved)
            if changes:
                app = await app_rows.update_app(connection, app_key, self._context.now(), **values) or app
            for name, endpoint in endpoints.items():
                for kind in _URLS[name]:
                    await notification_rows.move_endpoint(connection, app.id, kind, endpoint)
            listed = await self._listed(connection, app)
            act = Act("PayAppService/UpdatePayApp", app_key, app_key)
            await record(connection, caller, act, audited(before), audited(app) | (approved.audited if approved else {}))
            if approved is not None:
                await self._approvals.record(connection, approved)
        return listed

    @staticmethod
    def _refuse_changed(app: PayApp, approved: Approved) -> None:
        """APP_CHANGED if a field that changes has another value than the second operator was shown."""
        now, then = audited(app), approved.approval.shown["before"]
        if names := [name for name, value in then.items() if now[name] != value]:
            raise apps_errors.app_changed(names)

    async def _listed(self, connection: Connection, app: PayApp) -> ListedApp:
        codes = await app_rows.channel_codes(connection, [app.id])
        return ListedApp(app, codes.get(app.id, []))

    async def delete(self, caller: Caller, app_key: str) -> None:
        """Delete an app. APP_HAS_ORDERS or APP_HAS_REFUNDS if it has some."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        try:
            async with self._context.database.transaction() as connection:
                for table, error in (("pay_refund", apps_errors.app_has_refunds), ("pay_order", apps_errors.app_has_orders)):
                    if await app_rows.app_has(connection, app.id, table):
                        raise error()
                await app_rows.delete_app(connection, app.id)
                await record(connection, caller, Act("PayAppService/DeletePayApp", app_key, app_key), audited(app), {})
        except ForeignKeyViolation:
            raise apps_errors.app_has_orders() from None
        self._identity.forget_app(app_key)

    async def get(self, caller: Caller, app_key: str) -> ListedApp:
        """Read by key. An app may read itself."""
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            return await self._listed(connection, app)

    async def search(self, caller: Caller, name: str, enabled: bool | None, pager: Pager) -> Page[ListedApp]:
        """List apps, newest first."""
        self._identity.require_operator(caller)
        where = ("apps", name, enabled, caller.scope_keys)
        async with self._context.database.connection() as connection:
            rows = await app_rows.list_apps(
                connection, limit=pager.size + 1, before=pager.before(where), name=name, enabled=enabled, scope=caller.scope
            )
        return pager.page([ListedApp(app, codes) for app, codes in rows], where)

    async def rotate_notification_secret(self, caller: Caller, app_key: str) -> str:
        """Create a new secret. The replaced one still signs for a day, also if the new one is replaced within that day.

        A third rotation within a day ends the oldest of the replaced secrets at once.
        """
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        secret, now = new_notification_secret(), self._context.now()
        async with self._context.database.transaction() as connection:
            # Locked, so that of two rotations at the same time the second replaces the secret of the first.
            current = await app_rows.lock_app(connection, app.id) or app
            previous = with_previous_secret(
                current.notification_secrets_previous, current.notification_secret, now + _ROTATION, now
            )
            await app_rows.update_app(
                connection, app_key, now, notification_secret=self._context.box.seal(secret, secret_place(app.id)),
                notification_secrets_previous=previous,
            )  # fmt: skip
            act = Act("PayAppService/RotateNotificationSecret", app_key, app_key)
            await record(connection, caller, act, None, {"notification_secret": "new", "previous_until": str(now + _ROTATION)})
        return secret
