"""Accounts as values: earlier keys, scopes of fields, identities."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from paycenter_server.channels.registry import installed
from paycenter_server.channels.specs import Scope
from paycenter_server.domain.accounts import MOST_EARLIER_KEYS, PayAccount, new_account

NOW = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)


def account() -> PayAccount:
    return new_account(UUID(int=1), NOW, family="f", identity="i", name="n", remark="", config={"key": "0"})


def keys(one: PayAccount, now: datetime) -> list[str]:
    return [entry["config"]["key"] for entry in one.valid_earlier_keys(now)]


def test_earlier_keys_are_valid_until_their_end() -> None:
    changed = account().with_keys({"key": "1"}, NOW, NOW + HOUR)
    assert (changed.config, keys(changed, NOW), keys(changed, NOW + HOUR)) == ({"key": "1"}, ["0"], [])
    again = changed.with_keys({"key": "2"}, NOW + HOUR / 2, NOW + 2 * HOUR)
    assert (keys(again, NOW + HOUR / 2), keys(again, NOW + HOUR)) == (["1", "0"], ["1"])
    # What has ended is not kept.
    assert len(again.with_keys({"key": "3"}, NOW + 3 * HOUR, NOW + 4 * HOUR).earlier_keys) == 1


def test_an_overlap_of_nothing_ends_all_earlier_keys() -> None:
    changed = account().with_keys({"key": "1"}, NOW, NOW + HOUR)
    ended = changed.with_keys({"key": "2"}, NOW, NOW)
    assert list(ended.earlier_keys) == []


def test_the_number_of_earlier_keys_is_limited() -> None:
    one = account()
    for number in range(1, 10):
        one = one.with_keys({"key": str(number)}, NOW, NOW + HOUR)
    assert keys(one, NOW) == [str(number) for number in range(8, 8 - MOST_EARLIER_KEYS, -1)]


@pytest.mark.parametrize("spec", installed().values(), ids=lambda spec: spec.code)
def test_every_identity_field_is_a_plain_field_of_the_account(spec: object) -> None:
    from paycenter_server.channels.specs import ChannelSpec

    assert isinstance(spec, ChannelSpec)
    fields = {item.name: item for item in spec.config_fields}
    for name in spec.identity_fields:
        assert (fields[name].scope, fields[name].secret) == (Scope.ACCOUNT, False)
    assert spec.identity({"mchid": "1900000109", "app_id": "2021000000000001"}) == {
        "wechatpay": "1900000109", "alipay": "2021000000000001", "mock": "mock",
    }[spec.family]  # fmt: skip
    assert not spec.identity_fields or spec.identity({}) == ""
