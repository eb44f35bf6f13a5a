"""Two servers, a sidecar, two workers and two simulators as processes, over an embedded PostgreSQL and Valkey."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from paycenter_server.cli.seed import channel_configs, wechat_v2_config
from paycenter_server.local import Embedded
from paycenter_server.settings import Settings
from paycenter_server.simulator.keys import generate_keys, load_keys
from paycenter_server.storage.migrate import ensure
from support.system import Simulator, free_port
from support.waiting import eventually

SKEWED = Path(__file__).with_name("skewed.py")
# Seconds by which the clocks of these processes are wrong.
SKEW = {"serve-2": 180.0, "worker-2": 180.0, "callback": -180.0}


@dataclass
class Merchant:
    """A merchant at both families, at a simulator of its own. `configs`: family and configuration by channel code."""

    simulator: Simulator
    configs: dict[str, tuple[str, dict[str, str]]]


@dataclass
class Deployment:
    """The processes, by name: serve-1, serve-2, callback, worker-1, worker-2, simulator-1, simulator-2."""

    folder: Path
    servers: Embedded
    settings: Settings
    ports: dict[str, int]
    session: aiohttp.ClientSession
    merchants: list[Merchant] = field(default_factory=list)
    skew: bool = True
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The processes of PayCenter, without the simulators."""
        return [name for name in self.ports if not name.startswith("simulator")]

    def pid(self, name: str) -> int | None:
        """The pid of a process; None if it does not run."""
        process = self._running.get(name)
        return process.pid if process is not None and process.poll() is None else None

    def log(self, name: str) -> str:
        """What the process has written so far, over all its starts."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(self, name: str) -> None:
        """Start a process and return at once."""
        command, _, number = name.partition("-")
        argv = [sys.executable, "-m", "paycenter_server.cli"]
        if self.skew and name in SKEW:
            argv = [sys.executable, str(SKEWED), str(SKEW[name])]
        if command == "simulator":
            keys, data = self.folder / f"keys-{number}", self.folder / f"{name}.sqlite"
            argv += ["simulator", "--port", str(self.ports[name]), "--keys", str(keys), "--data", str(data)]
        else:
            argv.append(command)
        environment = self.environment()
        if command == "serve":
            environment["PAYCENTER_GRPC_ADDRESS"] = f"127.0.0.1:{self.ports[name]}"
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self._running[name]
        process.kill()
        process.wait()

    def revive(self, name: str) -> None:
        """Start a process that has ended by itself, as a process manager does: without a database none of them starts."""
        if self.pid(name) is None:
            self.start(name)

    async def kill_postgres(self) -> None:
        """SIGKILL to PostgreSQL, which recovers at its next start."""
        pid = self.servers.postgres_pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        self.servers.restart_postgres()

    def environment(self) -> dict[str, str]:
        """The variables of a process of PayCenter."""
        ours = self.settings
        values = {
            "mode": "development", "database_url": ours.database_url, "redis_url": ours.redis_url, "database_pool": "6",
            "master_key_file": str(ours.master_key_file), "order_callback_url": ours.order_callback_url,
            "refund_callback_url": ours.refund_callback_url, "callback_address": f"127.0.0.1:{self.ports['callback']}",
            "notification_allowed_networks": "127.0.0.0/8", "channel_timeout": str(ours.channel_timeout),
        }  # fmt: skip
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")},
            **{f"PAYCENTER_{name.upper()}": value for name, value in values.items()},
        }

    async def ready(self) -> None:
        """Wait until everything answers."""
        for name, port in self.ports.items():
            if name.startswith("worker"):
                self.revive(name)
                continue

            async def listens(name: str = name, port: int = port) -> bool:
                self.revive(name)
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return True
                return False

            try:
                await eventually(listens, 60)
            except AssertionError as error:
                raise AssertionError(f"{name} is not ready: {self.log(name)[-2000:]}") from error

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a statement on a connection of its own."""
        connection = await asyncpg.connect(self.settings.database_url, timeout=10)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def value(self, query: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        return (await self.rows(query, *arguments))[0][0]

    def end(self) -> None:
        """SIGKILL to all."""
        for process in self._running.values():
            process.kill()
            process.wait()


@asynccontextmanager
async def deployed(folder: Path, *, skew: bool = True, channel_timeout: float = 3.0) -> AsyncIterator[Deployment]:
    """A deployment in this folder, migrated and running, without apps. Start it from the main thread."""
    folder.mkdir(parents=True, exist_ok=True)
    master = folder / "master.key"
    master.write_text(base64.b64encode(os.urandom(32)).decode())
    master.chmod(0o600)
    names = ("serve-1", "serve-2", "callback", "worker-1", "worker-2", "simulator-1", "simulator-2")
    ports = {name: free_port() for name in names}
    sidecar = f"http://127.0.0.1:{ports['callback']}"
    servers = Embedded.temporary()
    urls = servers.start()
    try:
        await asyncio.to_thread(ensure, urls.database_url)
        settings = Settings(
            mode="development", database_url=urls.database_url, redis_url=urls.redis_url, master_key_file=master,
            order_callback_url=f"{sidecar}/callback/order", refund_callback_url=f"{sidecar}/callback/refund",
            channel_timeout=channel_timeout, notification_allowed_networks="127.0.0.0/8",
        )  # fmt: skip
        # A connection that is kept may be closed by its server in the moment in which it is used again.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
            made = Deployment(folder, servers, settings, ports, session, skew=skew)
            for number in (1, 2):
                keys = folder / f"keys-{number}"
                generate_keys(keys)
                base = f"http://127.0.0.1:{ports[f'simulator-{number}']}"
                loaded = load_keys(keys)
                configs = channel_configs(loaded, base)
                configs["wx_native:v2"] = ("wechatpay", wechat_v2_config(loaded, base))
                made.merchants.append(Merchant(Simulator(base, session), configs))
            try:
                for name in ports:
                    made.start(name)
                await made.ready()
                yield made
            finally:
                made.end()
    finally:
        servers.stop()
