"""`paycenter simulator`: the simulator on its own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

__all__ = ["command", "main"]

_HOW_TO = """\
Channel simulator at {address}
  pages             {address}/
  WeChat Pay        base URL {address}   (v3 and v2; mchid {mchid}, appid {appid})
  Alipay            gateway  {address}/gateway.do   (app_id {app_id})
  keys for SDKs     {keys}   (ids and serials in keys.json)
  pay a trade       curl -X POST {address}/simulator/pay/OUT_TRADE_NO
  let time pass     curl -d '{{"advance_seconds": 15}}' {address}/simulator/clock
  misbehave         curl -d '[{{"api": "wx.refund", "fault": "timeout_after_commit"}}]' {address}/simulator/faults
No real money moves here. Stop with Ctrl-C."""


@click.command(
    "simulator", help="Run a server that speaks the protocols of WeChat Pay (v3 and v2) and Alipay, for development and tests."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8900, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option(
    "--tls-port", type=click.IntRange(0, 65535), help="Also listen here with TLS, with the merchant's certificate required."
)
@click.option(
    "--keys",
    "keys_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".paycenter/simulator-keys"),
    show_default=True,
    help="Folder of the keys; what it lacks is generated.",
)
@click.option("--data", "data_file", type=click.Path(dir_okay=False, path_type=Path), help="SQLite file that keeps the trades.")
@click.option(
    "--faults", "faults_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON file of fault rules."
)
@click.option("--base-url", default="", help="Where people reach it, if not at host and port.")
@click.option("--keys-only", is_flag=True, help="Generate the keys and stop.")
def command(
    host: str,
    port: int,
    tls_port: int | None,
    keys_dir: Path,
    data_file: Path | None,
    faults_file: Path | None,
    base_url: str,
    keys_only: bool,
) -> None:
    """Start it and serve until a signal comes."""
    from paycenter_server.simulator.config import SimulatorConfig
    from paycenter_server.simulator.faults import InvalidFaultError
    from paycenter_server.simulator.keys import generate_keys

    keys = generate_keys(keys_dir)
    if keys_only:
        click.echo(str(keys_dir))
        return
    config = SimulatorConfig(keys_dir=keys.directory, base_url=base_url, data_file=data_file, faults_file=faults_file)
    try:
        asyncio.run(_serve(config, host, port, tls_port, keys))
    except (InvalidFaultError, ValueError) as error:
        raise click.ClickException(f"{faults_file}: {error}") from error
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


async def _serve(config: object, host: str, port: int, tls_port: int | None, keys: object) -> None:
    from aiohttp import web

    from paycenter_server.simulator.app import create_app
    from paycenter_server.simulator.config import SimulatorConfig
    from paycenter_server.simulator.keys import SimulatorKeys
    from paycenter_server.simulator.tls import server_context

    assert isinstance(config, SimulatorConfig)
    assert isinstance(keys, SimulatorKeys)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(create_app(config), access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0][1]
        if tls_port is not None:
            await web.TCPSite(runner, host, tls_port, ssl_context=server_context(keys)).start()
        address = config.base_url.rstrip("/") or f"http://{host}:{bound}"
        click.echo(
            _HOW_TO.format(
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
