"""How each process runs: uvloop, signals, logging, clear words for wrong settings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop
from pydantic import ValidationError

from paycenter_server.bootstrap import read_settings
from paycenter_server.settings import Settings
from paycenter_server.telemetry import configure_logging


def settings_or_exit() -> Settings:
    """The settings; every wrong or missing one is named, with its variable."""
    try:
        return read_settings()
    except ValidationError as error:
        click.echo("Set these environment variables right and start again:", err=True)
        for item in error.errors():
            name = "_".join(str(part) for part in item["loc"]).upper().removeprefix("PAYCENTER_")
            variable = f"PAYCENTER_{name}: " if name else ""
            click.echo(f"  {variable}{item['msg']}", err=True)
        sys.exit(2)


def settings_of_dev_or_exit() -> Settings:
    """The same, from a running `paycenter dev` on the data folder here if the environment names no database."""
    file = Path(os.environ.get("PAYCENTER_DATA_DIR") or ".paycenter") / "secrets" / "settings.json"
    if not os.environ.get("PAYCENTER_DATABASE_URL") and file.is_file():
        os.environ.update(json.loads(file.read_text(encoding="utf-8")))
        click.echo(f"(with the settings of `paycenter dev` on {file.parent.parent})", err=True)
    return settings_or_exit()


def fail(message: str) -> NoReturn:
    """Say why, and end with 1."""
    click.echo(message, err=True)
    sys.exit(1)


def run_until_signalled(main: Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `main` with an event that SIGINT and SIGTERM set."""
    settings = settings_or_exit()
    configure_logging(settings.log_format, settings.log_level)

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await main(settings, stop)

    try:
        uvloop.run(supervised())
    except (OSError, ValueError, RuntimeError) as error:
        fail(f"{type(error).__name__}: {error}")
