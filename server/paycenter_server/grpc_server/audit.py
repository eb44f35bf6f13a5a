"""The administrative calls, each of which is logged: who, from where, which method, which object, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message

from paycenter_server.services.identity import Caller

_SERVICES = (
    "PayAppService/",
    "PayApprovalService/",
    "PayAccountService/",
    "PayAuditService/",
    "PayCaseService/",
    "PayChannelService/",
    "PayCredentialService/",
    "PayOperatorService/",
)
_RESEND = (
    "PayNotificationService/ResendPayNotification",
    "PayNotificationService/ResendPayNotifications",
    "PayNotificationService/SendPayNotificationNow",
)
# Apps ask this for every checkout page.
_OF_APPS = "PayChannelService/ListEnabledChannelCodes"
# What names an object, and never holds a secret.
_NAMES = ("app_key", "code", "id", "key_id", "account_id")


def may_be_administrative(method: str) -> bool:
    """Whether some calls of the method are administrative. `method` without the package."""
    return method in _RESEND or method.startswith(_SERVICES)


def is_administrative(method: str, caller: Caller) -> bool:
    """Whether this caller's calls of the method are."""
    return may_be_administrative(method) and (method != _OF_APPS or caller.is_operator)


def named_object(request: Message | None, answer: Message | None) -> Mapping[str, str]:
    """The names in a request, and those that its answer adds (the identifier of what was created)."""
    found: dict[str, str] = {}
    answered = [value for _, value in answer.ListFields() if isinstance(value, Message)] if answer is not None else []
    for message in (request, *answered):
        for field, value in message.ListFields() if message is not None else ():
            if field.name in _NAMES and isinstance(value, str):
                found.setdefault(field.name, value[:64])
    return found
