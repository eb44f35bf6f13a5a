"""Views: the filters and columns of a list of the console, which an operator has saved under a name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

NAME_MAX = 64
QUERY_MAX = 1000
MOST_VIEWS = 50
"""Of one operator, in all lists."""


class ViewList(StrEnum):
    """The lists that have views."""

    ORDERS = "orders"
    REFUNDS = "refunds"


@dataclass(frozen=True, slots=True)
class PayOperatorView:
    """A view. `query`: the query string of the list, without its page."""

    id: UUID
    operator_id: UUID
    list: ViewList
    name: str
    query: str
    create_time: datetime
    update_time: datetime
