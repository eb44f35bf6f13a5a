"""What a simulator is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["SimulatorConfig"]


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """Settings of one simulator.

    keys_dir: folder made by `generate_keys`. base_url: where people reach it, for links and QR codes; empty means "as the request
    came". data_file: SQLite file that keeps trades over restarts; None keeps them in memory. faults_file: JSON list of fault rules
    read at start. refund_delay_seconds: how long a WeChat refund stays PROCESSING. refund_notify_url: what the merchant configured
    in WeChat's console, see settings.
    """

    keys_dir: Path
    base_url: str = ""
    data_file: Path | None = None
    faults_file: Path | None = None
    refund_delay_seconds: float = 0.3
    refund_notify_url: str = ""
