"""What the demo shop remembers: its orders, its refunds and the notifications that it got, in a SQLite file."""

from __future__ import annotations

import json
import secrets
import sqlite3
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paycenter.notifications import Notification

KEPT = 200
"""How many notifications are remembered."""
_SHOWN_BODY = 16_384
_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    number TEXT PRIMARY KEY, subject TEXT NOT NULL, amount INTEGER NOT NULL, created TEXT NOT NULL,
    pay_order_id TEXT NOT NULL DEFAULT '', state TEXT NOT NULL DEFAULT 'WAITING', paid INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS refunds (
    number TEXT PRIMARY KEY, order_number TEXT NOT NULL REFERENCES orders, amount INTEGER NOT NULL, reason TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'WAITING', message TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS notifications (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, type TEXT NOT NULL, path TEXT NOT NULL, refusal TEXT NOT NULL,
    received TEXT NOT NULL, data TEXT NOT NULL, headers TEXT NOT NULL, body TEXT NOT NULL, order_number TEXT NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 1);
CREATE UNIQUE INDEX IF NOT EXISTS notifications_once ON notifications (id) WHERE refusal = '';
CREATE TABLE IF NOT EXISTS versions (object_id TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS broken (since TEXT NOT NULL, refused INTEGER NOT NULL DEFAULT 0);
"""


class Store:
    """All state of the shop. Each method is one transaction, unless it is called within `transaction`."""

    def __init__(self, file: Path | str) -> None:
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript(_SCHEMA)
        self._start = secrets.token_hex(4)
        self._inside = _Transaction(self._db)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing."""
        return self._inside

    @property
    def mark(self) -> str:
        """A text that changes with every change."""
        return f"{self._start}-{self._db.total_changes}"

    def add_order(self, number: str, subject: str, amount: int) -> None:
        """A new order."""
        now = datetime.now(UTC).isoformat()
        self._db.execute(
            "INSERT INTO orders (number, subject, amount, created) VALUES (?, ?, ?, ?)", (number, subject, amount, now)
        )

    def set_order(self, number: str, *, state: str | None = None, paid: int | None = None, pay_order_id: str | None = None) -> None:
        """Change what is given."""
        self._db.execute(
            "UPDATE orders SET state = coalesce(?, state), paid = coalesce(?, paid), pay_order_id = coalesce(?, pay_order_id)"
            " WHERE number = ?",
            (state, paid, pay_order_id, number),
        )

    def order(self, number: str) -> dict[str, Any] | None:
        """One order, None if there is no such number."""
        return self._one("SELECT * FROM orders WHERE number = ?", number)

    def orders(self) -> list[dict[str, Any]]:
        """The newest 50."""
        return self._all("SELECT * FROM orders ORDER BY created DESC LIMIT 50")

    def add_refund(self, order_number: str, amount: int, reason: str) -> dict[str, Any]:
        """A new refund under the next number of the order."""
        with self._inside:
            count = self._db.execute("SELECT count(*) FROM refunds WHERE order_number = ?", (order_number,)).fetchone()[0]
            number = f"{order_number}-refund-{count + 1}"
            self._db.execute(
                "INSERT INTO refunds (number, order_number, amount, reason) VALUES (?, ?, ?, ?)",
                (number, order_number, amount, reason),
            )
        return self.refund(number) or {}

    def set_refund(self, number: str, state: str, message: str) -> None:
        """What became of it: WAITING, SUCCESS, FAILURE, or ERROR if the call failed."""
        self._db.execute("UPDATE refunds SET state = ?, message = ? WHERE number = ?", (state, message, number))

    def refund(self, number: str) -> dict[str, Any] | None:
        """One refund, None if there is no such number."""
        return self._one("SELECT * FROM refunds WHERE number = ?", number)

    def refunds(self, order_number: str) -> list[dict[str, Any]]:
        """Those of an order, oldest first."""
        return self._all("SELECT * FROM refunds WHERE order_number = ? ORDER BY rowid", order_number)

    def version(self, object_id: str) -> int | None:
        """The version of the last notification about an order, a refund or a case; None before the first."""
        row = self._one("SELECT version FROM versions WHERE object_id = ?", object_id)
        return None if row is None else int(row["version"])

    def set_version(self, object_id: str, version: int) -> None:
        """Remember it."""
        self._db.execute("INSERT OR REPLACE INTO versions VALUES (?, ?)", (object_id, version))

    def add_notification(self, told: Notification, path: str, headers: dict[str, str], body: bytes) -> bool:
        """Remember one that was verified; False if it came before: then it is counted."""
        again = self._db.execute("UPDATE notifications SET deliveries = deliveries + 1 WHERE id = ? AND refusal = ''", (told.id,))
        if again.rowcount:
            return False
        self._add(told.id, told.type, path, "", told.data, headers, body.decode())
        return True

    def add_refused(self, path: str, headers: dict[str, str], body: bytes, why: str) -> None:
        """Remember one that was refused. Anybody can send it: it changes nothing else."""
        self._add(headers.get("webhook-id", "")[:64], "", path, why, {}, headers, body.decode("utf-8", "replace")[:_SHOWN_BODY])

    def _add(self, id: str, kind: str, path: str, refusal: str, data: dict[str, Any], headers: dict[str, str], body: str) -> None:
        values = (id, kind, path, refusal, datetime.now(UTC).isoformat(), json.dumps(data), json.dumps(headers), body)
        self._db.execute(
            "INSERT INTO notifications (id, type, path, refusal, received, data, headers, body, order_number)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, str(data.get("merchant_order_id", ""))),
        )
        self._db.execute("DELETE FROM notifications WHERE place <= (SELECT max(place) FROM notifications) - ?", (KEPT,))

    def notifications(self, type: str = "", order_number: str = "") -> list[dict[str, Any]]:
        """Newest first; empty filters let everything through."""
        rows = self._all(
            "SELECT * FROM notifications WHERE ? IN ('', type) AND ? IN ('', order_number) ORDER BY place DESC", type, order_number
        )
        shown = ("id", "type", "path", "refusal", "received", "deliveries", "body")
        return [
            {
                **{name: row[name] for name in shown},
                "verified": not row["refusal"],
                "data": json.loads(row["data"]),
                "headers": json.loads(row["headers"]),
            }
            for row in rows
        ]

    @property
    def broken(self) -> bool:
        """Whether the switch is on: then the shop answers every notification with 500."""
        return self.refused is not None

    @broken.setter
    def broken(self, on: bool) -> None:
        with self._inside:
            self._db.execute("DELETE FROM broken")
            if on:
                self._db.execute("INSERT INTO broken (since) VALUES (?)", (datetime.now(UTC).isoformat(),))

    @property
    def refused(self) -> int | None:
        """How many notifications were answered with 500 since the switch is on; None while it is off."""
        row = self._one("SELECT refused FROM broken")
        return None if row is None else int(row["refused"])

    def count_broken(self) -> None:
        """One more."""
        self._db.execute("UPDATE broken SET refused = refused + 1")

    def _one(self, statement: str, *values: Any) -> dict[str, Any] | None:
        row = self._db.execute(statement, values).fetchone()
        return None if row is None else dict(row)

    def _all(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self._db.execute(statement, values)]


class _Transaction(AbstractContextManager[None]):
    """BEGIN and COMMIT, or ROLLBACK after an exception; not nested."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
