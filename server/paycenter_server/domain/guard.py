"""The guard against channel calls inside transactions (rule 1: commit, call, commit).

Storage marks the current task while a transaction is open in it. The transport refuses to send from such a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_open: ContextVar[int] = ContextVar("paycenter_open_transactions", default=0)


class TransactionOpenError(AssertionError):
    """A programming error: a channel was called while a transaction was open."""


@contextmanager
def transaction_open() -> Iterator[None]:
    """Mark the current task as having an open transaction."""
    token = _open.set(_open.get() + 1)
    try:
        yield
    finally:
        _open.reset(token)


def refuse_in_transaction() -> None:
    """Raise TransactionOpenError if the current task has an open transaction."""
    if _open.get():
        raise TransactionOpenError("a channel must not be called while a transaction is open: commit, call, commit")
