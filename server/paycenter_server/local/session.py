"""One run of the whole local system: servers, schema, children."""

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from paycenter.version import VERSION

from paycenter_server.distribution import migrations_folder
from paycenter_server.local.children import Command, Ports, environment, seed_child, service_children, simulator_child
from paycenter_server.local.datadir import DataDir
from paycenter_server.local.embedded import Embedded, LocalServices
from paycenter_server.local.tree import Child, Tree
from paycenter_server.local.variables import is_setting, unknown_settings

MASTER_KEY_BYTES = 32


class Session:
    """The local system on one opened data folder."""

    def __init__(
        self,
        data: DataDir,
        ports: Ports,
        command: Command,
        *,
        say: Callable[[str], None] = lambda line: None,
        warn: Callable[[str, str], None] = lambda name, line: None,
        external: bool = True,
    ) -> None:
        """`external`: use the servers and the master key that the environment names, if it names any."""
        unknown = {name for name, _ in unknown_settings()}
        # The caller names the unknown ones; each child would do it again.
        self._base = {
            name: value for name, value in os.environ.items() if not is_setting(name) or (external and name not in unknown)
        }
        named = os.environ if external else {}
        self.data = data
        self.ports = ports
        self.services = LocalServices("", "")
        self._command = command
        self._say = say
        self._named_key_file = named.get("PAYCENTER_MASTER_KEY_FILE")
        self._env: dict[str, str] = {}
        self._embedded = Embedded(
            data,
            database_url=named.get("PAYCENTER_DATABASE_URL") or None,
            redis_url=named.get("PAYCENTER_REDIS_URL") or None,
        )
        self.tree = Tree(data.logs, say=say, warn=warn)

    @property
    def data_file(self) -> Path:
        """What `seed` writes: addresses and credentials."""
        return self.data.path / "dev.json"

    @property
    def database_dir(self) -> Path | None:
        """Where the database is if it could not be in the data folder."""
        place = self._embedded.place
        return place.base if place is not None and place.elsewhere else None

    def start(self) -> None:
        """Start everything and wait until it answers. Raises LocalError; `stop` is the caller's in any case."""
        key_file = Path(self._named_key_file or self._master_key_file())
        self.services = self._embedded.start()
        for change in self._embedded.port_changes:
            self._say(change)
        self._env = environment(self._base, self.data.path, self.services, self.ports, key_file)
        parts = (self.data.path, self.ports, self._env, self._command)
        seed, simulator, rest = seed_child(*parts), simulator_child(*parts), service_children(*parts)
        if self._as_last_time():
            self.tree.start([*rest, simulator])
            self.tree.wait_ready()
            # It would find all as it left it; should it not, it mends it while everything runs.
            self.tree.start([seed])
        else:
            # The others need the schema and the file that this makes.
            self.tree.start([seed, simulator])
            self.tree.wait_ready()
            self.tree.start(rest)
            self.tree.wait_ready()
        # Not before: what is not up yet has given its ports to nobody, and the next start may choose again.
        self.data.keep_ports(asdict(self.ports))
        self._last_start_file.write_text(self._fingerprint())
        ours = {name: value for name, value in self._env.items() if name.startswith("PAYCENTER_")}
        _write_private(self._settings_file, json.dumps(ours, indent=2).encode())

    def run_demo(self, *words: str) -> int:
        """Run the demonstration on the terminal; its exit code."""
        argv = self._command("demo", "--running", "--data-file", str(self.data_file), *words)
        return self.tree.run_foreground(Child("demo", argv, self._env))

    def watch(self) -> None:
        """Keep everything running until a signal handler raises."""

        def look_at_servers() -> bool:
            self._embedded.revive(self._say)
            return False

        self.tree.watch(look_at_servers)

    def stop(self) -> None:
        """Stop API, console, worker, simulator, shop, Valkey and PostgreSQL, in this order."""
        try:
            self._settings_file.unlink(missing_ok=True)
            self.tree.stop()
        finally:
            self._embedded.stop()

    @property
    def _settings_file(self) -> Path:
        """The settings of the running system, for commands that are typed beside it (`paycenter channel test`)."""
        return self.data.secrets / "settings.json"

    @property
    def _last_start_file(self) -> Path:
        return self.data.path / "last-start"

    def _as_last_time(self) -> bool:
        """Whether the seed would find all as it left it, so that nobody has to wait for it."""
        try:
            return self.data_file.is_file() and self._last_start_file.read_text() == self._fingerprint()
        except OSError:
            return False

    def _fingerprint(self) -> str:
        known = [_release(), self.services.database_url, str(self.ports)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _master_key_file(self) -> Path:
        """The key that encrypts secrets at rest: 32 random bytes in base64, made once."""
        path = self.data.secrets / "master.key"
        if not path.exists():
            _write_private(path, base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)) + b"\n")
        return path


def _write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, for its owner only."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def _release() -> list[str]:
    """Changes when another version is installed or a migration is added: reasons to wait for the seed."""
    seed = Path(__file__).resolve().parents[1] / "cli" / "seed.py"
    migrations = sorted(path.name for path in (migrations_folder() / "versions").glob("*.py"))
    return [VERSION, str(seed.stat().st_mtime_ns), *migrations]
