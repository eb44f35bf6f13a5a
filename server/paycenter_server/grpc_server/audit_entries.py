"""PayAuditService."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from paycenter.v1 import pay_audit_service_pb2 as pb
from paycenter.v1.pay_audit_service_pb2_grpc import PayAuditServiceServicer

from paycenter_server.domain.audit import AuditEntry
from paycenter_server.grpc_server.convert import read_time, stamp
from paycenter_server.services.audit import Audit
from paycenter_server.services.paging import Pager
from paycenter_server.storage.audit import AuditFilter


def entry_message(entry: AuditEntry) -> pb.AuditEntry:
    """An entry."""
    return pb.AuditEntry(
        id=entry.id,
        time=stamp(entry.time),
        actor_kind=entry.actor_kind,
        actor=entry.actor,
        operator_name=entry.operator,
        act=entry.act,
        object=entry.object,
        outcome=entry.outcome,
        app_key=entry.app_key,
        before=ParseDict(dict(entry.before), Struct()) if entry.before else None,
        after=ParseDict(dict(entry.after), Struct()) if entry.after else None,
        peer=entry.peer,
        request_id=entry.request_id,
        hash=entry.hash.hex(),
    )


class AuditServicer(PayAuditServiceServicer):
    """Converts messages, and lists the audit."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, context: Any) -> pb.ListAuditEntriesResponse:
        """See the proto."""
        where = AuditFilter(
            operator=request.operator_name,
            act=request.act,
            object=request.object,
            app_key=request.app_key,
            outcome=request.outcome,
            time_from=read_time(request, "time_from"),
            time_to=read_time(request, "time_to"),
        )
        page = await self._audit.search(where, Pager(request.page_size, request.page_token))
        return pb.ListAuditEntriesResponse(entries=[entry_message(entry) for entry in page.items], next_page_token=page.next_token)
