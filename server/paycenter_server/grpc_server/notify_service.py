"""PayNotifyService."""

from __future__ import annotations

from typing import Any

from paycenter.v1 import pay_notify_service_pb2 as pb
from paycenter.v1.pay_notify_service_pb2_grpc import PayNotifyServiceServicer

from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.models import NotifyType
from paycenter_server.domain.states import NotifyState
from paycenter_server.grpc_server.convert import (
    NOTIFY_STATES,
    NOTIFY_TYPES,
    enum_value,
    log_message,
    moment,
    task_message,
)
from paycenter_server.grpc_server.interceptor import current_caller
from paycenter_server.services.notify_admin import NotifyAdmin
from paycenter_server.services.paging import Pager
from paycenter_server.storage.notifications import TaskFilter


class NotifyServicer(PayNotifyServiceServicer):
    """Messages in, messages out."""

    def __init__(self, notifications: NotifyAdmin) -> None:
        self._notifications = notifications

    async def ListNotifyTasks(self, request: pb.ListNotifyTasksRequest, context: Any) -> pb.ListNotifyTasksResponse:
        """See the proto."""
        data_id = decode(Prefix.ORDER, request.data_id) or decode(Prefix.REFUND, request.data_id)
        if request.data_id and data_id is None:
            return pb.ListNotifyTasksResponse()
        where = TaskFilter(
            type=enum_value(NotifyType, "type", request.type, NOTIFY_TYPES),
            state=enum_value(NotifyState, "state", request.state, NOTIFY_STATES),
            merchant_order_id=request.merchant_order_id,
            merchant_refund_no=request.merchant_refund_no,
            data_id=data_id,
            create_time_from=moment(request, "create_time_from"),
            create_time_to=moment(request, "create_time_to"),
        )
        pager = Pager(request.page_size, request.page_token)
        page = await self._notifications.search(current_caller(), request.app_key, where, pager)
        return pb.ListNotifyTasksResponse(notify_tasks=[task_message(task) for task in page.items], next_page_token=page.next_token)

    async def GetNotifyTask(self, request: pb.GetNotifyTaskRequest, context: Any) -> pb.GetNotifyTaskResponse:
        """See the proto."""
        task, logs = await self._notifications.get(current_caller(), request.id)
        return pb.GetNotifyTaskResponse(notify_task=task_message(task), logs=[log_message(entry) for entry in logs])

    async def ResendNotifyTask(self, request: pb.ResendNotifyTaskRequest, context: Any) -> pb.ResendNotifyTaskResponse:
        """See the proto."""
        return pb.ResendNotifyTaskResponse(notify_task=task_message(await self._notifications.resend(current_caller(), request.id)))
