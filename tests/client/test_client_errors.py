"""Typed errors: a class for each reason, and what is decoded from the status details."""

from __future__ import annotations

import pickle

import grpc
import pytest
from paycenter import (
    AsyncPayCenter,
    AttemptState,
    DisplayMode,
    NotificationState,
    NotificationType,
    OrderState,
    PayCenter,
    Reason,
    RefundState,
    errors,
)
from paycenter.v1 import error_reason_pb2
from paycenter.v1 import pay_notification_service_pb2 as notifications
from paycenter.v1 import pay_order_service_pb2 as orders
from paycenter.v1 import pay_refund_service_pb2 as refunds
from support.client_fakes import KEY_ID, KEY_SECRET, FakePayCenter, plain, rich

REASONS = [name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()]  # noqa: SIM118


def test_every_reason_of_the_protos_is_known() -> None:
    assert [reason.name for reason in Reason] == REASONS


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason != "UNSPECIFIED"])
def test_every_reason_has_a_class(reason: str) -> None:
    kind = errors.PayCenterError.by_reason[reason]
    assert kind.__name__ == "".join(word.capitalize() for word in reason.split("_")) + "Error"
    assert getattr(errors, kind.__name__) is kind
    assert kind.__doc__


def failing(fake: FakePayCenter, pay: PayCenter) -> errors.PayCenterError:
    with pytest.raises(errors.PayCenterError) as caught:
        pay.close_order("O1")
    return caught.value


def test_everything_is_decoded(fake: FakePayCenter, pay: PayCenter) -> None:
    fake.failures["ClosePayOrder"] = [
        rich(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            "Correct these fields: 数额",
            metadata={"fields": "id"},
            violations={"id": "is not a number of ours", "x": "y"},
            retry_after=1.5,
        )
    ]
    error = failing(fake, pay)
    assert isinstance(error, errors.InvalidFieldError)
    assert isinstance(error, errors.InvalidRequestError)
    assert error.reason == Reason.INVALID_FIELD
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == "Correct these fields: 数额"
    assert error.metadata == {"fields": "id"}
    assert error.violations == (errors.Violation("id", "is not a number of ours"), errors.Violation("x", "y"))
    assert error.retry_after == 1.5
    assert str(error) == "INVALID_FIELD: Correct these fields: 数额"
    assert isinstance(error.__cause__, grpc.RpcError)


async def test_the_same_in_asyncio(fake: FakePayCenter) -> None:
    fake.failures["ClosePayOrder"] = [rich(grpc.StatusCode.FAILED_PRECONDITION, "ORDER_PAID", metadata={"a": "b"})]
    async with AsyncPayCenter(fake.target, key_id=KEY_ID, key_secret=KEY_SECRET) as pay:
        with pytest.raises(errors.OrderPaidError) as caught:
            await pay.close_order("O1")
    assert caught.value.metadata == {"a": "b"}
    assert isinstance(caught.value, errors.PreconditionError)


def test_a_reason_from_the_future(fake: FakePayCenter, pay: PayCenter) -> None:
    fake.failures["ClosePayOrder"] = [rich(grpc.StatusCode.ABORTED, "MOON_TOO_FAR")]
    error = failing(fake, pay)
    assert type(error) is errors.PayCenterError
    assert error.reason == "MOON_TOO_FAR"


def test_a_reason_of_another_domain(fake: FakePayCenter, pay: PayCenter) -> None:
    fake.failures["ClosePayOrder"] = [rich(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND", domain="proxy.example")]
    error = failing(fake, pay)
    assert type(error) is errors.PayCenterError
    assert error.reason == Reason.UNSPECIFIED


def test_without_details(fake: FakePayCenter, pay: PayCenter) -> None:
    fake.failures["ClosePayOrder"] = [plain(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")]
    error = failing(fake, pay)
    assert (error.reason, error.code, error.message) == ("", grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
    assert str(error) == "RESOURCE_EXHAUSTED: too much"


def test_details_that_are_broken(fake: FakePayCenter, pay: PayCenter) -> None:
    def fail(context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    fake.failures["ClosePayOrder"] = [fail]  # type: ignore[list-item]
    error = failing(fake, pay)
    assert (error.code, error.message) == (grpc.StatusCode.NOT_FOUND, "gone")


def test_errors_survive_pickling() -> None:
    error = errors.OrderConflictError(
        "taken", reason=Reason.ORDER_CONFLICT, code=grpc.StatusCode.ALREADY_EXISTS, metadata={"a": "b"}
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.OrderConflictError
    assert (again.reason, again.metadata, str(again)) == (error.reason, error.metadata, str(error))
    waited = pickle.loads(pickle.dumps(errors.WaitTimeoutError("long", last=3)))
    assert (waited.last, waited.message) == (3, "long")


@pytest.mark.parametrize(
    ("short", "enum", "prefix"),
    [
        (OrderState, orders.PayOrderState, "PAY_ORDER_STATE_"),
        (AttemptState, orders.PayAttemptState, "PAY_ATTEMPT_STATE_"),
        (DisplayMode, orders.DisplayMode, "DISPLAY_MODE_"),
        (RefundState, refunds.PayRefundState, "PAY_REFUND_STATE_"),
        (NotificationState, notifications.NotificationState, "NOTIFICATION_STATE_"),
        (NotificationType, notifications.NotificationType, "NOTIFICATION_TYPE_"),
    ],
)
def test_short_names_are_the_protos(short: type, enum: object, prefix: str) -> None:
    known = {name.removeprefix(prefix): value for name, value in enum.items()}  # type: ignore[attr-defined]
    del known["UNSPECIFIED"]
    assert {name: value for name, value in vars(short).items() if name.isupper()} == known
    for name, value in known.items():
        assert short.name(value) == name  # type: ignore[attr-defined]
    assert short.name(99) == "99"  # type: ignore[attr-defined]
