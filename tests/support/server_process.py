"""No tests: `paycenter serve` and `paycenter callback` as processes of their own, over the database of a system."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.system import PayCenterSystem
from support.waiting import eventually


class ServerProcess:
    """One process. `log`: what it has written to standard error so far."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self._process = process
        self._log_file = log_file

    @property
    def log(self) -> str:
        return self._log_file.read_text()

    async def until_logged(self, word: str, seconds: float = 30) -> None:
        async def found() -> bool:
            assert self._process.returncode is None, self.log
            return word in self.log

        await eventually(found, seconds)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        return await asyncio.wait_for(self._process.wait(), 30)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def server_process(
    system: PayCenterSystem, command: str, *, preexec: Callable[[], Any] | None = None, **settings: str
) -> AsyncIterator[ServerProcess]:
    """`paycenter {command}`, ended with the block. `settings`: names without the prefix, in lower case."""
    ours = system.settings
    values = {
        "mode": "development", "database_url": ours.database_url, "redis_url": ours.redis_url,
        "master_key_file": str(ours.master_key_file), "order_callback_url": ours.order_callback_url,
        "refund_callback_url": ours.refund_callback_url, **settings,
    }  # fmt: skip
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")},
        **{f"PAYCENTER_{name.upper()}": value for name, value in values.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        with path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "paycenter_server.cli",
                *command.split(),
                env=environment,
                stderr=log,
                stdout=log,
                preexec_fn=preexec,
            )
        made = ServerProcess(process, path)
        try:
            yield made
        finally:
            await made.end()
