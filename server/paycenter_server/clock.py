"""The system's clock, behind the port that services use."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """Aware UTC time of this machine."""

    def now(self) -> datetime:
        """Now."""
        return datetime.now(UTC)
