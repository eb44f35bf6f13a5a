"""A server that speaks the channels' protocols, for development and tests.

It answers as WeChat Pay (APIv3 and v2) and the Alipay gateway do, signs what they sign, notifies and resends as they do, and lets a
person (`GET /`) or a script (`POST /simulator/pay/{out_trade_no}`) play the payer. It must never face the internet.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paycenter_server.simulator.app import create_app
    from paycenter_server.simulator.cli import command, main
    from paycenter_server.simulator.config import SimulatorConfig
    from paycenter_server.simulator.keys import SimulatorKeys, generate_keys, load_keys

__all__ = ["SimulatorConfig", "SimulatorKeys", "command", "create_app", "generate_keys", "load_keys", "main"]

_HOMES = {
    "SimulatorConfig": "config",
    "SimulatorKeys": "keys",
    "command": "cli",
    "create_app": "app",
    "generate_keys": "keys",
    "load_keys": "keys",
    "main": "cli",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
