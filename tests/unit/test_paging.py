"""Pages by keyset."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.services.paging import DEFAULT_SIZE, MAX_SIZE, Page, Pager


@dataclass(frozen=True)
class Row:
    id: UUID


ROWS = [Row(UUID(int=number)) for number in range(1, 8)]
WHERE = {"app": "shop", "state": "WAITING"}


def read(size: int, token: str, where: object = WHERE) -> Page[Row]:
    """The rows of a list: one more than the page size."""
    pager = Pager(size, token)
    after = pager.before(where)
    rows = [row for row in ROWS if after is None or row.id > after]
    return pager.page(rows[: pager.size + 1], where)


@given(size=st.integers(1, 10))
def test_pages_hold_every_row_once(size: int) -> None:
    seen: list[Row] = []
    token = ""
    while True:
        page = read(size, token)
        assert len(page.items) <= size
        seen += page.items
        token = page.next_token
        if not token:
            break
    assert seen == ROWS


def test_the_last_page_has_no_token_even_when_it_is_full() -> None:
    assert read(7, "").next_token == ""
    assert read(6, "").next_token != ""
    assert Pager(5, "").page([], WHERE) == Page([], "")


@pytest.mark.parametrize(("asked", "given_"), [(0, DEFAULT_SIZE), (1, 1), (200, 200), (201, MAX_SIZE), (1 << 31, MAX_SIZE)])
def test_sizes(asked: int, given_: int) -> None:
    assert Pager(asked, "").size == given_


def test_a_size_below_zero() -> None:
    with pytest.raises(PayCenterError) as caught:
        Pager(-1, "")
    assert caught.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in caught.value.violations] == ["page_size"]


@pytest.mark.parametrize("where", [{}, {"app": "other"}, {"app": "shop"}, None])
def test_a_token_belongs_to_its_filters(where: object) -> None:
    token = read(3, "").next_token
    with pytest.raises(PayCenterError) as caught:
        Pager(3, token).before(where)
    assert caught.value.reason is Reason.PAGE_TOKEN_INVALID


JUNK = st.binary(min_size=1, max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode())


@given(token=st.text(min_size=1, max_size=60) | JUNK)
def test_invalid_tokens(token: str) -> None:
    with pytest.raises(PayCenterError) as caught:
        Pager(3, token).before(WHERE)
    assert caught.value.reason is Reason.PAGE_TOKEN_INVALID


def test_another_key() -> None:
    pager = Pager(1, "")
    page = pager.page([1, 2], WHERE, key=lambda number: UUID(int=number))
    assert Pager(1, page.next_token).before(WHERE) == UUID(int=1)
