"""Administration of apps and their credentials. For operators."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.models import Credential, NotificationSuccess, PayApp, SurplusPolicy
from paycenter_server.domain.validation import Check
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.notifications_delivery import secret_place
from paycenter_server.services.paging import Page, Pager
from paycenter_server.services.secrets import hash_secret, new_notification_secret, new_secret
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage.database import ForeignKeyViolation, UniqueViolation

_ROTATION = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class NewApp:
    """A create request."""

    app_key: str
    name: str
    remark: str
    order_notification_url: str
    refund_notification_url: str
    surplus_policy: SurplusPolicy
    notification_success: NotificationSuccess


@dataclass(frozen=True, slots=True)
class ListedApp:
    """An app and the codes of its enabled channels."""

    app: PayApp
    channel_codes: list[str]

    @property
    def id(self) -> Any:
        """For paging."""
        return self.app.id


class Apps:
    """Create, read, change, delete; credentials; webhook secrets."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity

    async def create(self, caller: Caller, new: NewApp) -> tuple[PayApp, str, str, str]:
        """The app, its webhook secret, and its first credential's key id and secret. Secrets are not kept in the clear."""
        self._identity.require_operator(caller)
        check = Check()
        check.app_key("app_key", new.app_key)
        check.text("name", new.name, 64, minimum=1)
        check.text("remark", new.remark, 255)
        check.url("order_notification_url", new.order_notification_url, required=True)
        check.url("refund_notification_url", new.refund_notification_url, required=True)
        check.done()
        now = self._context.now()
        key, notification_secret = self._context.new_key(now), new_notification_secret()
        app = PayApp(
            id=key, app_key=new.app_key, name=new.name, enabled=True, remark=new.remark,
            order_notification_url=new.order_notification_url, refund_notification_url=new.refund_notification_url,
            surplus_policy=new.surplus_policy, notification_success=new.notification_success,
            notification_secret=self._context.box.seal(notification_secret, secret_place(key)), notification_secret_previous=None,
            notification_secret_previous_until=None, create_time=now, update_time=now,
        )  # fmt: skip
        credential, secret = self._credential(app, "first")
        try:
            async with self._context.database.transaction() as connection:
                await app_rows.insert_app(connection, app)
                await app_rows.insert_credential(connection, credential)
        except UniqueViolation:
            raise PayCenterError(
                Reason.APP_EXISTS, f"The app key {new.app_key!r} is taken; choose another.", metadata={"app_key": new.app_key}
            ) from None
        return app, notification_secret, credential.key_id, secret

    def _credential(self, app: PayApp | None, name: str) -> tuple[Credential, str]:
        secret = new_secret()
        credential = Credential(
            key_id=("app_" if app else "op_") + secrets.token_hex(8),
            secret_hash=hash_secret(secret),
            app_id=app.id if app else None,
            app_key=app.app_key if app else None,
            name=name,
            enabled=True,
            create_time=self._context.now(),
        )
        return credential, secret

    async def create_operator(self, name: str) -> tuple[str, str]:
        """A new operator credential (key id and secret); from the command line only, never over the API."""
        credential, secret = self._credential(None, name)
        async with self._context.database.connection() as connection:
            await app_rows.insert_credential(connection, credential)
        return credential.key_id, secret

    async def update(self, caller: Caller, app_key: str, changes: Mapping[str, Any]) -> ListedApp:
        """Change the fields that are given."""
        self._identity.require_operator(caller)
        check = Check()
        if "name" in changes:
            check.text("name", changes["name"], 64, minimum=1)
        if "remark" in changes:
            check.text("remark", changes["remark"], 255)
        for name in ("order_notification_url", "refund_notification_url"):
            if name in changes:
                check.url(name, changes[name], required=True)
        check.done()
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            if changes:
                app = await app_rows.update_app(connection, app_key, self._context.now(), **changes) or app
            return await self._listed(connection, app)

    async def _listed(self, connection: Any, app: PayApp) -> ListedApp:
        codes = await app_rows.channel_codes(connection, [app.id])
        return ListedApp(app, codes.get(app.id, []))

    async def delete(self, caller: Caller, app_key: str) -> None:
        """Refused while the app has orders or refunds."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        try:
            async with self._context.database.transaction() as connection:
                for table, reason, what in (
                    ("pay_refund", Reason.APP_HAS_REFUNDS, "refunds"),
                    ("pay_order", Reason.APP_HAS_ORDERS, "pay orders"),
                ):
                    if await app_rows.app_has(connection, app.id, table):
                        raise PayCenterError(reason, f"The app has {what} and cannot be deleted; disable it instead.")
                await app_rows.delete_app(connection, app.id)
        except ForeignKeyViolation:
            raise PayCenterError(
                Reason.APP_HAS_ORDERS, "The app has pay orders and cannot be deleted; disable it instead."
            ) from None

    async def get(self, caller: Caller, app_key: str) -> ListedApp:
        """By key; apps may read themselves."""
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            return await self._listed(connection, app)

    async def search(self, caller: Caller, name: str, enabled: bool | None, pager: Pager) -> Page[ListedApp]:
        """Newest first."""
        self._identity.require_operator(caller)
        where = ("apps", name, enabled)
        async with self._context.database.connection() as connection:
            rows = await app_rows.list_apps(
                connection, limit=pager.size + 1, before=pager.before(where), name=name, enabled=enabled
            )
        return pager.page([ListedApp(app, codes) for app, codes in rows], where)

    async def create_credential(self, caller: Caller, app_key: str, name: str) -> tuple[Credential, str]:
        """A further credential, so that a service can change over without a break."""
        self._identity.require_operator(caller)
        check = Check()
        check.text("name", name, 64)
        check.done()
        app = await self._identity.app_of(caller, app_key)
        credential, secret = self._credential(app, name)
        async with self._context.database.connection() as connection:
            await app_rows.insert_credential(connection, credential)
        return credential, secret

    async def credentials(self, caller: Caller, app_key: str) -> list[Credential]:
        """Oldest first."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            return await app_rows.list_credentials(connection, app.id)

    async def disable_credential(self, caller: Caller, app_key: str, key_id: str) -> Credential:
        """End a credential; it works for 5 seconds more at most."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        async with self._context.database.connection() as connection:
            if not await app_rows.disable_credential(connection, app.id, key_id):
                raise PayCenterError(Reason.CREDENTIAL_NOT_FOUND, "The app has no such credential; ListAppCredentials shows them.")
            credential = await app_rows.get_credential(connection, key_id)
        assert credential is not None
        return credential

    async def rotate_notification_secret(self, caller: Caller, app_key: str) -> str:
        """A new secret; notifications carry both signatures for a day."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        secret, now = new_notification_secret(), self._context.now()
        async with self._context.database.connection() as connection:
            await app_rows.update_app(
                connection, app_key, now, notification_secret=self._context.box.seal(secret, secret_place(app.id)),
                notification_secret_previous=app.notification_secret, notification_secret_previous_until=now + _ROTATION,
            )  # fmt: skip
        return secret
