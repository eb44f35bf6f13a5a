"""PayAccountService."""

from __future__ import annotations

from typing import Any

from paycenter.v1 import pay_account_service_pb2 as pb
from paycenter.v1.pay_account_service_pb2_grpc import PayAccountServiceServicer

from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.channels import config_fields, config_message
from paycenter_server.grpc_server.convert import stamp
from paycenter_server.services.accounts import Accounts, AccountView, NewAccount
from paycenter_server.services.paging import Pager

_PLAIN: Any = ("enabled", "name", "remark", "change_approval")


def account_message(view: AccountView) -> pb.PayAccount:
    """An account, without its secrets."""
    account = view.account
    return pb.PayAccount(
        id=account.number,
        family=account.family,
        identity=account.identity,
        name=account.name,
        enabled=account.enabled,
        remark=account.remark,
        config=config_message(view.message, view.config),
        configured_secrets=view.secrets,
        earlier_keys_until=stamp(view.earlier_keys_until),
        create_time=stamp(account.create_time),
        update_time=stamp(account.update_time),
        change_approval=account.change_approval,
    )


class AccountServicer(PayAccountServiceServicer):
    """Converts messages, and calls the use cases for accounts."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def CreatePayAccount(self, request: pb.CreatePayAccountRequest, context: Any) -> pb.CreatePayAccountResponse:
        """See the proto."""
        message, config = config_fields(request.config)
        new = NewAccount(name=request.name, remark=request.remark, family=request.family, message=message, config=config)
        return pb.CreatePayAccountResponse(pay_account=account_message(await self._accounts.create(current_caller(), new)))

    async def UpdatePayAccount(self, request: pb.UpdatePayAccountRequest, context: Any) -> pb.UpdatePayAccountResponse:
        """See the proto."""
        changes = {name: getattr(request, name) for name in _PLAIN if request.HasField(name)}
        message, config = config_fields(request.config)
        given = config if request.HasField("config") else None
        hours = request.overlap_hours if request.HasField("overlap_hours") else None
        view = await self._accounts.update(current_caller(), request.id, changes, message, given, hours)
        return pb.UpdatePayAccountResponse(pay_account=account_message(view))

    async def DeletePayAccount(self, request: pb.DeletePayAccountRequest, context: Any) -> pb.DeletePayAccountResponse:
        """See the proto."""
        await self._accounts.delete(current_caller(), request.id)
        return pb.DeletePayAccountResponse()

    async def GetPayAccount(self, request: pb.GetPayAccountRequest, context: Any) -> pb.GetPayAccountResponse:
        """See the proto."""
        return pb.GetPayAccountResponse(pay_account=account_message(await self._accounts.get(current_caller(), request.id)))

    async def ListPayAccounts(self, request: pb.ListPayAccountsRequest, context: Any) -> pb.ListPayAccountsResponse:
        """See the proto."""
        pager = Pager(request.page_size, request.page_token)
        page = await self._accounts.search(current_caller(), request.family, pager)
        return pb.ListPayAccountsResponse(
            pay_accounts=[account_message(view) for view in page.items], next_page_token=page.next_token
        )
