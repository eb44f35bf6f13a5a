"""The processes of a run: embedded PostgreSQL (fsync on) and Valkey, servers, ceilings and generators."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from paycenter_server.local import Embedded
from paycenter_server.local.ports import accepts
from paycenter_server.storage.migrate import ensure

HERE = Path(__file__).parent


def cpu_seconds(*pids: int) -> float:
    """The processor time of these processes and their children so far, including children that have ended."""
    total = 0.0
    for pid in pids:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mib(pid: int) -> float:
    """The resident memory of a process."""
    return float(psutil.Process(pid).memory_info().rss / 2**20)


class Processes:
    """Starts processes, and ends them with the block."""

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        self.folder = folder
        self._fsync = fsync
        self._stack = ExitStack()

    def __enter__(self) -> Processes:
        self.embedded = Embedded.temporary(fsync=self._fsync)
        self._stack.callback(self.embedded.stop)
        self.urls = self.embedded.start()
        ensure(self.urls.database_url)
        master = self.folder / "master.key"
        master.write_text(base64.b64encode(os.urandom(32)).decode())
        master.chmod(0o600)
        self.settings = {
            "MODE": "development", "DATABASE_URL": self.urls.database_url, "REDIS_URL": self.urls.redis_url,
            "MASTER_KEY_FILE": str(master), "ORDER_CALLBACK_URL": "http://127.0.0.1:1/order",
            "REFUND_CALLBACK_URL": "http://127.0.0.1:1/refund", "NOTIFICATION_ALLOWED_NETWORKS": "127.0.0.0/8",
        }  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def postgres_pid(self) -> int:
        """The postmaster."""
        pid = self.embedded.postgres_pid
        assert pid is not None
        return pid

    def start(self, command: list[str], *, piped: bool = False, settings: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a Python process with the settings of this run."""
        values = {**self.settings, **(settings or {})}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")},
            **{f"PAYCENTER_{name}": value for name, value in values.items()},
        }
        log = (self.folder / f"{Path(command[-1]).name[:20]}-{time.monotonic_ns()}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE if piped else log, stderr=log, text=True
        )
        self._stack.callback(_end, process)
        return process

    def paycenter(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start a command of PayCenter."""
        return self.start(["-m", "paycenter_server.cli", *arguments], settings=settings)

    def certificate(self) -> tuple[Path, Path]:
        """A certificate of localhost that signs itself, and its key: PEM files."""
        files = self.folder / "certificate.pem", self.folder / "key.pem"
        if not files[0].exists():
            key = ec.generate_private_key(ec.SECP256R1())
            name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
            made = (
                x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
                .not_valid_after(now + timedelta(days=1))
                .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False).sign(key, hashes.SHA256())
            )  # fmt: skip
            files[0].write_bytes(made.public_bytes(Encoding.PEM))
            files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def with_port(self, *command: str) -> tuple[subprocess.Popen[str], int]:
        """Start a process that prints its port."""
        process = self.start(list(command), piped=True)
        assert process.stdout is not None
        return process, int(process.stdout.readline())


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def listening(port: int, seconds: float = 20.0) -> None:
    """Wait until a port accepts connections."""
    end = time.monotonic() + seconds
    while not accepts(port):
        if time.monotonic() > end:
            raise TimeoutError(f"nothing listens on port {port}")
        time.sleep(0.05)


def quiet(pids: list[int], seconds: float = 20.0) -> None:
    """Wait until these processes use hardly any processor time: a tenth of one. It says so if they still do after `seconds`."""
    end, used = time.monotonic() + seconds, cpu_seconds(*pids)
    while time.monotonic() < end:
        time.sleep(0.5)
        before, used = used, cpu_seconds(*pids)
        if used - before < 0.05:
            return
    print(f"processes that should rest used processor time for {seconds:.0f} s", file=sys.stderr)


def generate(
    target: str, path: str, message: bytes, *, authorization: str = "", marker: str = "", first: int = 0, seconds: float = 2.0,
    parallel: int = 64, connections: int = 8, messages: Path | None = None, span: int = 0,
    rate: float = 0.0, tls: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One run of the load generator. `messages`: a file with a request in each line, instead of one message. `rate`: calls that
    are begun in a second, instead of `parallel`. `tls`: the certificate of the server."""
    command = [
        sys.executable, str(HERE / "http2.py"), "--target", target, "--path", path, "--message", message.hex(), "--marker", marker,
        "--first", str(first), "--seconds", str(seconds), "--parallel", str(parallel), "--connections", str(connections),
        "--authorization", authorization, "--span", str(span), "--rate", str(rate), "--tls", str(tls or ""),
    ]  # fmt: skip
    if messages is not None:
        command += ["--messages", str(messages)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
