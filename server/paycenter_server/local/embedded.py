"""PostgreSQL and Valkey for development and tests, without installing or configuring anything."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from paycenter_server.local.datadir import DataDir
from paycenter_server.local.errors import LocalError
from paycenter_server.local.place import Place, find_place
from paycenter_server.local.ports import holder
from paycenter_server.local.postgres import Postgres
from paycenter_server.local.valkey import Valkey


@dataclass(frozen=True, slots=True)
class LocalServices:
    """Where the servers are: `postgresql://user:password@127.0.0.1:port/paycenter` and `redis://:password@127.0.0.1:port/0`.

    `redis_url` is empty if no Redis was wanted.
    """

    database_url: str
    redis_url: str


def refuse_production(what: str) -> None:
    """Raise LocalError if this is a production installation: nothing of this package is made for one."""
    if os.environ.get("PAYCENTER_MODE", "").strip().lower() == "production":
        raise LocalError(
            f"{what} is for development and is refused with PAYCENTER_MODE=production. Run `paycenter serve`, `callback` and "
            "`worker` against servers of yours (PAYCENTER_DATABASE_URL, PAYCENTER_REDIS_URL)."
        )


class Embedded:
    """The servers of one data folder. A context manager; one at a time per data folder, any number of folders at once.

    A server whose URL is given is taken as it is and not started. Start from the main thread: the servers end with it.
    """

    def __init__(
        self,
        data_dir: Path | DataDir,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        want_redis: bool = True,
        fsync: bool = True,
    ) -> None:
        """`data_dir` as a DataDir is one that the caller has opened and will close. `fsync`: of PostgreSQL."""
        self._fsync = fsync
        self._data = data_dir if isinstance(data_dir, DataDir) else DataDir(data_dir)
        self._owns_data = not isinstance(data_dir, DataDir)
        self._database_url = database_url
        self._redis_url = redis_url
        self._want_redis = want_redis
        self._postgres: Postgres | None = None
        self._valkey: Valkey | None = None
        self.place: Place | None = None
        self.port_changes: list[str] = []
        """A sentence for each server whose port is not the one of the last start. Nothing stored points to these ports."""

    def start(self) -> LocalServices:
        """Start what is wanted, both at the same time. Raises LocalError, whose message says what to do; nothing then runs."""
        refuse_production("The embedded PostgreSQL")
        if self._owns_data:
            self._data.open()
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop Valkey, then PostgreSQL, then give the data folder back. Does nothing if they do not run."""
        if self._valkey is not None:
            self._valkey.stop()
        if self._postgres is not None:
            # What is thrown away needs no orderly end.
            self._postgres.stop(immediate=self._data.ephemeral)
        self._postgres = self._valkey = None
        if self._owns_data:
            self._data.close()

    @classmethod
    def temporary(cls, *, want_redis: bool = True, fsync: bool = True) -> "Embedded":
        """Servers on a folder of their own in the system's temporary folder (TMPDIR), which `stop` removes. For tests."""
        embedded = cls(DataDir.temporary(), want_redis=want_redis, fsync=fsync)
        embedded._owns_data = True
        return embedded

    def revive(self, say: Callable[[str], None]) -> None:
        """Start again each of our servers that has ended, and `say` so. Raises LocalError if it cannot be started."""
        for name, server in (("PostgreSQL", self._postgres), ("Valkey", self._valkey)):
            if server is not None and server.pid is None:
                say(f"{name} has ended and is started again; its log is in {self._data.logs}")
                server.begin()
                server.wait_ready()

    def restart_postgres(self, *, immediate: bool = True) -> None:
        """Stop and start on the same port; `immediate` as after a crash. Also starts one that was killed. Raises LocalError."""
        postgres = self._started_postgres()
        postgres.stop(immediate=immediate)
        postgres.begin()
        postgres.wait_ready()

    def stop_redis(self) -> None:
        """Stop Valkey alone."""
        self._started_valkey().stop()

    def start_redis(self) -> None:
        """Start Valkey again, empty, on the same port and with the same password. Raises LocalError."""
        valkey = self._started_valkey()
        valkey.begin()
        valkey.wait_ready()

    @property
    def postgres_pid(self) -> int | None:
        """The pid of our PostgreSQL; None if it does not run or is not ours."""
        return None if self._postgres is None else self._postgres.pid

    @property
    def redis_pid(self) -> int | None:
        """The pid of our Valkey; None if it does not run or is not ours."""
        return None if self._valkey is None else self._valkey.pid

    def __enter__(self) -> LocalServices:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _start(self) -> LocalServices:
        ports = self._data.ports()
        want_postgres, want_valkey = not self._database_url, self._want_redis and not self._redis_url
        if want_postgres or want_valkey:
            self.place = find_place(self._data.path)
            if want_valkey:
                self._valkey = Valkey(self.place, self._data.logs / "valkey.log", ports.get("valkey"))
                self._valkey.begin()
            if want_postgres:
                log = self._data.logs / "postgres.log"
                self._postgres = Postgres(self.place, self._data.secrets, log, ports.get("postgres"), fsync=self._fsync)
                self._postgres.begin()
        for server in (self._valkey, self._postgres):
            if server is not None:
                server.wait_ready()
        self._keep_ports(ports)
        return LocalServices(
            self._postgres.url if self._postgres is not None else self._database_url or "",
            self._valkey.url if self._valkey is not None else (self._redis_url or "") if self._want_redis else "",
        )

    def _keep_ports(self, last: Mapping[str, int]) -> None:
        """The ports are used again at the next start: tools that were given the address of the database keep working."""
        servers = {"postgres": self._postgres, "valkey": self._valkey}
        ports = {name: server.port for name, server in servers.items() if server is not None}
        for name, port in ports.items():
            if last.get(name, port) != port:
                self.port_changes.append(f"Port {last[name]} ({name}) is taken by {holder(last[name])}: using {port}.")
        self._data.keep_ports(ports)

    def _started_postgres(self) -> Postgres:
        if self._postgres is None:
            raise LocalError("PostgreSQL was not started here.")
        return self._postgres

    def _started_valkey(self) -> Valkey:
        if self._valkey is None:
            raise LocalError("Valkey was not started here.")
        return self._valkey
