"""PayChannelService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paycenter.v1 import pay_channel_service_pb2 as pb
from paycenter.v1.pay_channel_service_pb2_grpc import PayChannelServiceServicer

from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import stamp
from paycenter_server.services.channels import Channels, ChannelView, NewChannel
from paycenter_server.services.paging import Pager

_PLAIN: Any = ("enabled", "fee_rate_ppm", "remark")


def config_fields(config: pb.PayChannelConfig) -> tuple[str, dict[str, str]]:
    """The family and its fields as texts; empty ones left out."""
    family = config.WhichOneof("family") or ""
    if not family:
        return "", {}
    if family == "generic":
        return family, {name: value for name, value in config.generic.fields.items() if value}
    given = {}
    for field, value in getattr(config, family).ListFields():
        given[field.name] = ("true" if value else "") if isinstance(value, bool) else str(value)
    return family, {name: value for name, value in given.items() if value}


def config_message(family: str, config: Mapping[str, str]) -> pb.PayChannelConfig:
    """The message of a configuration without secrets. `family`: the field of the message."""
    if family == "generic":
        return pb.PayChannelConfig(generic=pb.GenericConfig(fields=dict(config)))
    message = pb.PayChannelConfig()
    inner = getattr(message, family)
    inner.SetInParent()
    for name, value in config.items():
        setattr(inner, name, value == "true" if isinstance(getattr(inner, name), bool) else value)
    return message


def channel_message(view: ChannelView) -> pb.PayChannel:
    """A channel, without its secrets."""
    channel = view.channel
    return pb.PayChannel(
        id=channel.number,
        app_key=channel.app_key,
        code=channel.code,
        enabled=channel.enabled,
        fee_rate_ppm=channel.fee_rate_ppm,
        remark=channel.remark,
        config=config_message(view.family, view.config),
        configured_secrets=view.secrets,
        order_callback_url=view.order_callback_url,
        refund_callback_url=view.refund_callback_url,
        create_time=stamp(channel.create_time),
        update_time=stamp(channel.update_time),
        account_id=view.account.number,
    )


class ChannelServicer(PayChannelServiceServicer):
    """Converts messages, and calls the use cases for channels."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def CreatePayChannel(self, request: pb.CreatePayChannelRequest, context: Any) -> pb.CreatePayChannelResponse:
        """See the proto."""
        family, config = config_fields(request.config)
        new = NewChannel(
            app_key=request.app_key,
            code=request.code,
            fee_rate_ppm=request.fee_rate_ppm,
            remark=request.remark,
            family=family,
            config=config,
            enabled=not request.disabled,
            account=request.account_id,
        )
        return pb.CreatePayChannelResponse(pay_channel=channel_message(await self._channels.create(current_caller(), new)))

    async def UpdatePayChannel(self, request: pb.UpdatePayChannelRequest, context: Any) -> pb.UpdatePayChannelResponse:
        """See the proto."""
        changes = {name: getattr(request, name) for name in _PLAIN if request.HasField(name)}
        family, config = config_fields(request.config)
        given = config if request.HasField("config") else None
        view = await self._channels.update(current_caller(), request.id, changes, family, given, request.account_id)
        return pb.UpdatePayChannelResponse(pay_channel=channel_message(view))

    async def DeletePayChannel(self, request: pb.DeletePayChannelRequest, context: Any) -> pb.DeletePayChannelResponse:
        """See the proto."""
        await self._channels.delete(current_caller(), request.id)
        return pb.DeletePayChannelResponse()

    async def GetPayChannel(self, request: pb.GetPayChannelRequest, context: Any) -> pb.GetPayChannelResponse:
        """See the proto."""
        return pb.GetPayChannelResponse(pay_channel=channel_message(await self._channels.get(current_caller(), request.id)))

    async def ListPayChannels(self, request: pb.ListPayChannelsRequest, context: Any) -> pb.ListPayChannelsResponse:
        """See the proto."""
        pager = Pager(request.page_size, request.page_token)
        page = await self._channels.search(current_caller(), request.app_key, pager)
        return pb.ListPayChannelsResponse(
            pay_channels=[channel_message(view) for view in page.items], next_page_token=page.next_token
        )

    async def ListEnabledChannelCodes(
        self, request: pb.ListEnabledChannelCodesRequest, context: Any
    ) -> pb.ListEnabledChannelCodesResponse:
        """See the proto."""
        codes = await self._channels.enabled_codes(current_caller(), request.app_key)
        return pb.ListEnabledChannelCodesResponse(codes=codes)
