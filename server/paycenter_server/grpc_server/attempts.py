"""Attempts as messages."""

from __future__ import annotations

from paycenter.v1 import pay_order_service_pb2 as pb

from paycenter_server.domain.attempts import PayAttempt
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.grpc_server.convert import stamp

DISPLAY_MODES = {
    pb.DISPLAY_MODE_UNSPECIFIED: "",
    pb.DISPLAY_MODE_URL: "url",
    pb.DISPLAY_MODE_FORM: "form",
    pb.DISPLAY_MODE_QR_CODE: "qr_code",
    pb.DISPLAY_MODE_BAR_CODE: "bar_code",
    pb.DISPLAY_MODE_APP: "app",
}
_DISPLAY = {name: number for number, name in DISPLAY_MODES.items()}


def display_mode(name: str) -> pb.DisplayMode.ValueType:
    """A display mode by the codec's name."""
    return _DISPLAY.get(name, pb.DISPLAY_MODE_UNSPECIFIED)


def attempt_message(attempt: PayAttempt) -> pb.PayAttempt:
    """An attempt."""
    return pb.PayAttempt(
        out_trade_no=attempt.out_trade_no,
        channel_code=attempt.channel_code,
        channel_id=encode(Prefix.CHANNEL, attempt.channel_id),
        amount=attempt.amount,
        state=pb.PayAttemptState.Value(f"PAY_ATTEMPT_STATE_{attempt.state.value}"),
        channel_error_code=attempt.channel_error_code or "",
        channel_error_message=attempt.channel_error_message or "",
        channel_order_no=attempt.channel_order_no or "",
        create_time=stamp(attempt.create_time),
        success_time=stamp(attempt.success_time),
    )
