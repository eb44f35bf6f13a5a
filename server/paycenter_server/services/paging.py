"""Pages by keyset (AIP-158). A page token contains the last key and a digest of the filters."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.services import errors
from paycenter_server.storage.database import Connection
from paycenter_server.storage.keyrange import scan_end
from paycenter_server.storage.notifications import NotificationFilter
from paycenter_server.storage.orders import OrderFilter
from paycenter_server.storage.refunds_lists import RefundFilter

T = TypeVar("T")
F = TypeVar("F", OrderFilter, RefundFilter, NotificationFilter)
DEFAULT_SIZE = 50
MAX_SIZE = 200
SCANNED = 12_500
"""The rows that a page reads at most, if no index has those of its filter. It may then be shorter than its size, or empty, and
another one follows."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items, and the token of the next page, which is empty on the last page."""

    items: Sequence[T]
    next_token: str


def _digest(where: object) -> bytes:
    return hashlib.sha256(repr(where).encode()).digest()[:8]


class Pager:
    """A page request. A size over `most` means `most`; a negative size is an error."""

    def __init__(self, size: int, token: str, *, most: int = MAX_SIZE) -> None:
        if size < 0:
            raise invalid([Violation("page_size", "must not be negative")])
        self.size = min(size or DEFAULT_SIZE, most)
        self._token = token

    def before(self, where: object) -> UUID | None:
        """The key after which the page starts. PAGE_TOKEN_INVALID for a token of another list."""
        if not self._token:
            return None
        try:
            raw = base64.urlsafe_b64decode(self._token.encode("ascii") + b"=" * (-len(self._token) % 4))
        except ValueError:
            raw = b""
        if len(raw) != 24 or raw[16:] != _digest(where):
            raise errors.page_token_invalid()
        return UUID(bytes=raw[:16])

    def page(
        self, rows: Sequence[T], where: object, key: Callable[[Any], UUID] = lambda item: item.id, *, scanned: UUID | None = None
    ) -> Page[T]:
        """The page of these rows, which are one more than its size if there is a next page.

        `scanned`: the key at which the search for rows stopped before the end of the list.
        """
        if len(rows) <= self.size:
            return Page(rows, self.token(scanned, where) if scanned else "")
        items = rows[: self.size]
        return Page(items, self.token(key(items[-1]), where))

    @staticmethod
    def token(last: UUID, where: object) -> str:
        """The token of the page after the one whose last key is `last`."""
        return base64.urlsafe_b64encode(last.bytes + _digest(where)).decode().rstrip("=")


def among(keys: Sequence[UUID] | None, found: Sequence[UUID]) -> tuple[UUID, ...]:
    """The keys that were found; if there are some already, those of them. None for any."""
    return tuple(key for key in found if keys is None or key in keys)


async def bounded(
    connection: Connection,
    table: Literal["pay_order", "pay_refund", "pay_notify_task"],
    where: F,
    before: UUID | None,
    scan: int | None,
) -> F:
    """The filter of a page that reads `scan` rows at most from the key `before`.

    None: SCANNED if no index has the rows of the filter; the same filter if one has them.
    """
    if scan is None and where.reads_many:
        scan = SCANNED
    if scan is None:
        return where
    end = await scan_end(
        connection, table, app_id=where.app_id, start=where.create_time_from, end=where.create_time_to, before=before, rows=scan
    )
    return replace(where, first_id=end)
