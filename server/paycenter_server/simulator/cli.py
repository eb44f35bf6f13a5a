"""`paycenter simulator`: the simulator on its own."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
from pathlib import Path

import click
from aiohttp import web

from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.faults import InvalidFaultError
from paycenter_server.simulator.http import MalformedRequestFilter
from paycenter_server.simulator.keys import SimulatorKeys, generate_keys, server_context
from paycenter_server.simulator.settings import SimulatorConfig, check_notify_url

__all__ = ["command", "main"]

_BANNER = """\
Channel simulator at {address}
  pages             {address}/
  WeChat Pay        base URL {address}   (v3 and v2; mchid {mchid}, appid {appid})
  Alipay            gateway  {address}/gateway.do   (app_id {app_id})
  keys for SDKs     {keys}   (ids and serials in keys.json)
  pay a trade       curl -X POST {address}/simulator/pay/OUT_TRADE_NO
  advance the clock curl -d '{{"advance_seconds": 15}}' {address}/simulator/clock
  add a fault       curl -d '[{{"api": "wx.refund", "fault": "timeout_after_commit"}}]' {address}/simulator/faults
No real money moves here. Stop with Ctrl-C."""


@click.command(
    "simulator", help="Run a server that speaks the protocols of WeChat Pay (v3 and v2) and Alipay, for development and tests."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8900, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 selects a free one.")
@click.option(
    "--tls-port", type=click.IntRange(0, 65535), help="Also listen on this port with TLS and require the merchant's certificate."
)
@click.option(
    "--keys",
    "keys_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".paycenter/simulator-keys"),
    show_default=True,
    help="Folder of the keys. Missing keys are generated.",
)
@click.option("--data", "data_file", type=click.Path(dir_okay=False, path_type=Path), help="SQLite file that stores the trades.")
@click.option(
    "--faults", "faults_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON file of fault rules."
)
@click.option(
    "--refund-notify-url",
    default="",
    help="The address in WeChat Pay's console for notifications, in v2 XML, of refunds without a notify_url.",
)
@click.option("--base-url", default="", help="Public address, if it differs from host and port.")
@click.option("--keys-only", is_flag=True, help="Generate the keys and stop.")
def command(
    host: str,
    port: int,
    tls_port: int | None,
    keys_dir: Path,
    data_file: Path | None,
    faults_file: Path | None,
    base_url: str,
    refund_notify_url: str,
    keys_only: bool,
) -> None:
    """Serve until SIGINT or SIGTERM."""
    try:
        keys = generate_keys(keys_dir)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"the keys in {keys_dir} cannot be used: {_reason(error)}") from error
    if keys_only:
        click.echo(str(keys_dir))
        return
    try:
        notify_url = check_notify_url(refund_notify_url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--refund-notify-url") from error
    config = SimulatorConfig(
        keys_dir=keys.directory, base_url=base_url, data_file=data_file, faults_file=faults_file, refund_notify_url=notify_url
    )
    asyncio.run(_serve(config, host, port, tls_port, keys))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _application(config: SimulatorConfig) -> web.Application:
    """The application. ClickException if a file is invalid."""
    try:
        return create_app(config)
    except sqlite3.Error as error:
        raise click.ClickException(f"{config.data_file} cannot be used as --data: {error}") from error
    except (InvalidFaultError, ValueError) as error:
        raise click.ClickException(f"{config.faults_file}: {error}") from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or config.data_file}: {_reason(error)}") from error


async def _listen(site: web.BaseSite, host: str, port: int) -> None:
    try:
        await site.start()
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {_reason(error)}") from error


async def _serve(config: SimulatorConfig, host: str, port: int, tls_port: int | None, keys: SimulatorKeys) -> None:
    logging.getLogger("aiohttp.server").addFilter(MalformedRequestFilter())
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(_application(config), access_log=None, shutdown_timeout=2)
    try:
        try:
            await runner.setup()
        except (KeyError, TypeError, ValueError, sqlite3.Error) as error:
            raise click.ClickException(f"{config.data_file} has content that this version cannot read: {error}") from error
        await _listen(web.TCPSite(runner, host, port), host, port)
        bound = runner.addresses[0][1]
        if tls_port is not None:
            await _listen(web.TCPSite(runner, host, tls_port, ssl_context=server_context(keys)), host, tls_port)
        address = config.base_url.rstrip("/") or f"http://{host}:{bound}"
        click.echo(
            _BANNER.format(
                address=address,
                keys=config.keys_dir,
                mchid=keys.wechatpay["mchid"],
                appid=keys.wechatpay["appid"],
                app_id=keys.alipay["app_id"],
            )
        )
        if tls_port is not None:
            click.echo(
                f"  with TLS          https://{host}:{runner.addresses[-1][1]}   (trust {keys.file('wechatpay', 'tls_cert.pem')})"
            )
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Entry point."""
    command()
