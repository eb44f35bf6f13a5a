"""How each process runs: uvloop, signals, logging, one sentence for each wrong setting."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import structlog
import uvloop
from pydantic import ValidationError

from paycenter_server.bootstrap import read_database_settings, read_settings
from paycenter_server.settings import DatabaseSettings, Settings, unknown_variables
from paycenter_server.telemetry import configure_logging

T = TypeVar("T", bound=DatabaseSettings)
log = structlog.get_logger(__name__)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Within the block, the work runs too. It is cancelled at the end, and its errors are left out."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def settings_or_exit() -> Settings:
    """The settings; every wrong or missing one is named with its variable, and so is each variable that is no setting."""
    settings = _read_or_exit(read_settings)
    _print_unknown_variables()
    return settings


def database_settings_or_exit() -> DatabaseSettings:
    """The settings of a command that needs only the database; no other variable is required or checked."""
    settings = _read_or_exit(read_database_settings)
    _print_unknown_variables()
    return settings


def settings_of_dev_or_exit() -> Settings:
    """The same, from a running `paycenter dev` on the data folder here if the environment names no database."""
    _use_settings_of_dev()
    return settings_or_exit()


def database_settings_of_dev_or_exit() -> DatabaseSettings:
    """`database_settings_or_exit`, from a running `paycenter dev` as in `settings_of_dev_or_exit`."""
    _use_settings_of_dev()
    return database_settings_or_exit()


def _use_settings_of_dev() -> None:
    file = Path(os.environ.get("PAYCENTER_DATA_DIR") or ".paycenter") / "secrets" / "settings.json"
    if not os.environ.get("PAYCENTER_DATABASE_URL") and file.is_file():
        os.environ.update(json.loads(file.read_text(encoding="utf-8")))
        click.echo(f"(with the settings of `paycenter dev` on {file.parent.parent})", err=True)


def fail(message: str) -> NoReturn:
    """Print the message to standard error, and end with 1."""
    click.echo(message, err=True)
    sys.exit(1)


def run_until_signalled(main: Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `main` with an event that SIGINT and SIGTERM set. Variables that are no setting are logged."""
    settings = _read_or_exit(read_settings)
    configure_logging(settings.log_format, settings.log_level)
    for name, nearest in unknown_variables(os.environ):
        log.warning("unknown_variable", name=name, nearest=nearest)

    # With the default of 700 new objects, the collector looks at the calls in progress again and again: 7 % of a create.
    gc.set_threshold(10_000, 20, 50)

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await main(settings, stop)

    uvloop.run(supervised())


def _read_or_exit(read: Callable[[], T]) -> T:
    """The settings; names every wrong one on standard error and ends with 2."""
    try:
        return read()
    except ValidationError as error:
        click.echo("These environment variables are missing or wrong:", err=True)
        for item in error.errors():
            name = "_".join(str(part) for part in item["loc"]).upper().removeprefix("PAYCENTER_")
            variable = f"PAYCENTER_{name}: " if name else ""
            click.echo(f"  {variable}{item['msg'].removeprefix('Value error, ')}", err=True)
        sys.exit(2)


def _print_unknown_variables() -> None:
    for name, nearest in unknown_variables(os.environ):
        click.echo(f"Warning: {name} is not a setting of PayCenter. The nearest setting is {nearest}.", err=True)
