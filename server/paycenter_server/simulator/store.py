"""JSON documents in one SQLite file.

WAL mode with synchronous=NORMAL: a killed process loses nothing, a crash of the machine can lose the last commits. That is
sufficient for a simulator, and writes are short enough for the event loop.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["DocumentStore"]


class DocumentStore:
    """JSON documents by kind and key. Without a file they are kept in memory."""

    def __init__(self, file: Path | None) -> None:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(str(file) if file else ":memory:", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS document (kind TEXT, key TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )

    def put(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """Insert or replace one document."""
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        self._database.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", (kind, key, body))

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """One document."""
        row = self._database.execute("SELECT body FROM document WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        document: dict[str, Any] | None = json.loads(row[0]) if row else None
        return document

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all writes of the block together, so that a payment and its notification are stored atomically."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite rolls back by itself after some errors
                self._database.execute("ROLLBACK")
            raise

    def all(self, kind: str) -> Iterator[dict[str, Any]]:
        """All documents of a kind."""
        for (body,) in self._database.execute("SELECT body FROM document WHERE kind = ?", (kind,)):
            yield json.loads(body)

    def clear(self) -> None:
        """Delete all documents."""
        self._database.execute("DELETE FROM document")

    def close(self) -> None:
        """Close the file."""
        self._database.close()
