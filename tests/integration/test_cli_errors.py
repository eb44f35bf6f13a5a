"""What an operator can correct is said in one sentence, without a traceback, by every command."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import grimp
import pytest
from paycenter_server.storage.problems import database_problem
from support.commands import run_command

DATABASE_COMMANDS = (
    ("migrate",),
    ("migrate", "--check"),
    ("operator", "anne"),
    ("channel", "test", "wx_native", "--app", "demo"),
    ("serve",),
    ("callback",),
    ("worker",),
    ("order", "show", "O01M8ADF7E2FWHB3BMKC55MZ5SM"),
    ("books", "check"),
    ("audit", "list"),
    ("audit", "verify"),
    ("case", "list"),
    ("case", "show", "K01M8ADF7E2FWHB3BMKC55MZ5SM"),
    ("case", "decide", "K01M8ADF7E2FWHB3BMKC55MZ5SM", "refund"),
    ("approval", "list"),
    ("approval", "approve", "V01M8ADF7E2FWHB3BMKC55MZ5SM"),
    ("approval", "refuse", "V01M8ADF7E2FWHB3BMKC55MZ5SM", "--reason", "x"),
    ("seed", "--data-dir", "data", "--simulator-url", "http://127.0.0.1:1", "--shop-url", "http://127.0.0.1:1"),
)


def environment(database_url: str, master_key_file: Path, **more: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")},
        "PAYCENTER_DATABASE_URL": database_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file),
        "PAYCENTER_MODE": "development",
        "PAYCENTER_GRPC_ADDRESS": "127.0.0.1:0",
        "PAYCENTER_CALLBACK_ADDRESS": "127.0.0.1:0",
        "PAYCENTER_ORDER_CALLBACK_URL": "http://127.0.0.1/o",
        "PAYCENTER_REFUND_CALLBACK_URL": "http://127.0.0.1/r",
        **more,
    }


def run_limited(words: tuple[str, ...], env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter of its own, which can write no file."""
    argv = [sys.executable, "-m", "paycenter_server.cli", *words]
    return subprocess.run(
        argv, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False, preexec_fn=_no_file_may_grow
    )  # fmt: skip


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Standard error, if it is one line and the exit code is 1 or 2."""
    lines = done.stderr.splitlines()
    assert done.returncode in (1, 2), (done.args, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    assert "secret-password" not in done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("commands", "change", "expected"),
    [
        (DATABASE_COMMANDS, {"netloc": "paycenter:secret-password@{server}"}, "The database refuses the login"),
        (DATABASE_COMMANDS[1:6:2], {"netloc": "paycenter:secret-password@127.0.0.1:1"}, "The database does not answer"),
        (DATABASE_COMMANDS[0:5:4], {"path": "/no_such_database"}, "The database does not exist"),
    ],
)
def test_database(
    commands: tuple[tuple[str, ...], ...],
    change: dict[str, str],
    expected: str,
    database_url: str,
    master_key_file: Path,
    tmp_path: Path,
) -> None:
    parts = urlsplit(database_url)
    server = f"127.0.0.1:{parts.port}"
    wrong = parts._replace(**{name: value.format(server=server) for name, value in change.items()}).geturl()
    for words in commands:
        line = sentence(run_command(words, environment(wrong, master_key_file), tmp_path))
        assert expected in line
        assert "PAYCENTER_DATABASE_URL" in line


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PAYCENTER_GRPC_ADDRESS", "127.0.0.1", "'127.0.0.1' has no port; write host:port"),
        ("PAYCENTER_CALLBACK_ADDRESS", "127.0.0.1", "'127.0.0.1' has no port; write host:port"),
        ("PAYCENTER_CALLBACK_ADDRESS", "127.0.0.1:http", "has no port from 0 to 65535"),
        ("PAYCENTER_GRPC_ADDRESS", "127.0.0.1:70000", "has no port from 0 to 65535"),
        ("PAYCENTER_GRPC_ADDRESS", "::1:50051", "an IPv6 address is written in brackets"),
        ("PAYCENTER_GRPC_ADDRESS", "[::1]", "has no port"),
        ("PAYCENTER_DATABASE_URL", "mysql://u:secret-password@h/d", "postgresql://user:password@host/database"),
        ("PAYCENTER_DATABASE_URL", "postgresql://u:secret-password@h:port/d", "postgresql://user:password@host/database"),
        ("PAYCENTER_REDIS_URL", "127.0.0.1:6379", "redis://host:6379/0"),
        ("PAYCENTER_NOTIFICATION_ALLOWED_NETWORKS", "10.0.0.1/8", "has host bits set"),
    ],
)
def test_a_wrong_setting_is_named(variable: str, value: str, expected: str, master_key_file: Path, tmp_path: Path) -> None:
    env = environment("postgresql://u:secret-password@127.0.0.1:1/d", master_key_file, **{variable: value})
    done = run_command(("serve",), env, tmp_path)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith(f"  {variable}: ") and expected in line], done.stderr
    assert "secret-password" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_taken_address(taken: str, database_url: str, redis_url: str, master_key_file: Path, tmp_path: Path) -> None:
    for command, variable in (("serve", "PAYCENTER_GRPC_ADDRESS"), ("callback", "PAYCENTER_CALLBACK_ADDRESS")):
        for address in (taken, "no-such-host.invalid:1"):
            env = environment(database_url, master_key_file, PAYCENTER_REDIS_URL=redis_url, **{variable: address})
            line = sentence(run_command((command,), env, tmp_path))
            assert line.startswith(f"Error: {variable}: cannot listen on {address}"), line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read"),
        ("not base64 !", "no valid keys"),
        ("", "no valid keys"),
    ],
)
def test_the_master_key_file(content: str | None, expected: str, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    if content is not None:
        file.write_text(content)
    line = sentence(run_command(("worker",), environment(database_url, file), tmp_path))
    assert "PAYCENTER_MASTER_KEY_FILE" in line
    assert expected in line


@pytest.mark.parametrize(
    "words",
    [
        ("protos", "--out", "/proc/paycenter"),
        ("simulator", "--port", "0", "--keys", "/proc/paycenter"),
        ("simulator", "--port", "0", "--data", "/proc/paycenter/trades.sqlite"),
        ("dev", "--data-dir", "/proc/paycenter"),
        ("demo", "--running", "--data-file", "/proc/paycenter/dev.json"),
        ("shop", "--host", "192.0.2.1", "--data-file", "dev.json", "--store", ":memory:"),
        ("simulator", "--host", "192.0.2.1"),
    ],
)
def test_no_permission_and_no_such_address(words: tuple[str, ...], tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")}
    assert sentence(run_command(words, env, tmp_path))


def _no_file_may_grow() -> None:
    # As a full disk: the write fails with an error of the operating system.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_the_demonstration_on_a_full_disk(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")}
    assert "No usable temporary directory" in sentence(run_limited(("demo",), env, tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        ("protos", "--out", "contract"),
        ("simulator", "--port", "0", "--keys", "keys"),
        ("dev", "--data-dir", "data"),
        DATABASE_COMMANDS[-1],
    ],
)
def test_a_full_disk(words: tuple[str, ...], database_url: str, master_key_file: Path, tmp_path: Path) -> None:
    env: dict[str, str] = {name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")}
    if words[0] == "seed":
        env = environment(database_url, master_key_file)
    line = sentence(run_limited(words, {**env, "TMPDIR": str(tmp_path)}, tmp_path))
    assert "File too large" in line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncpg.DiskFullError("could not extend file"), "disk of the database is full"),
        (asyncpg.InsufficientPrivilegeError("permission denied for schema public"), "lacks a permission"),
        (asyncpg.UndefinedTableError('relation "pay_app" does not exist'), "paycenter migrate"),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT"), "read-only"),
        (asyncpg.LockNotAvailableError("canceling statement"), "Repeat the command"),
        (TimeoutError(), "does not answer"),
    ],
)
def test_errors_of_the_database(error: Exception, expected: str) -> None:
    assert expected in (database_problem(error) or "")
    wrapped = RuntimeError("a driver's wrapper")
    wrapped.__cause__ = error
    assert expected in (database_problem(wrapped) or "")


@pytest.mark.parametrize(
    "error", [asyncpg.PostgresSyntaxError("syntax"), asyncpg.InterfaceError("misuse"), KeyError("x"), BrokenPipeError(32, "pipe")]
)
def test_faults_of_this_program_keep_their_traceback(error: Exception) -> None:
    assert database_problem(error) is None


def test_operator_and_migrate_need_only_the_database(database_url: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")}
    env["PAYCENTER_DATABASE_URL"] = database_url
    # Another command's setting that is wrong does not matter either.
    env["PAYCENTER_GRPC_ADDRESS"] = "nowhere"
    created = run_command(("operator", "anne"), env, tmp_path)
    assert created.returncode == 0, created.stderr
    assert "key id: op_" in created.stdout
    assert run_command(("migrate", "--check"), env, tmp_path).returncode == 0
    missing = run_command(("operator", "anne"), {**env, "PAYCENTER_DATABASE_URL": ""}, tmp_path)
    assert missing.returncode == 2
    assert "PAYCENTER_DATABASE_URL" in missing.stderr
    assert "MASTER_KEY" not in missing.stderr


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_the_name_of_an_operator(name: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")}
    done = run_command(("operator", name), env, tmp_path)
    assert done.returncode == 2
    assert "Invalid value for NAME" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_variables_are_named(database_url: str, redis_url: str, master_key_file: Path, tmp_path: Path, taken: str) -> None:
    wrong = {"PAYCENTER_GRPC_ADRESS": "127.0.0.1:1", "PAYCENTER_LOGLEVEL": "debug", "paycenter_log_format": "json"}
    done = run_command(("migrate",), environment(database_url, master_key_file, **wrong), tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "Warning: PAYCENTER_GRPC_ADRESS is not a setting of PayCenter. The nearest setting is PAYCENTER_GRPC_ADDRESS.",
        "Warning: PAYCENTER_LOGLEVEL is not a setting of PayCenter. The nearest setting is PAYCENTER_LOG_LEVEL.",
    ]
    env = environment(database_url, master_key_file, PAYCENTER_REDIS_URL=redis_url, PAYCENTER_CALLBACK_ADDRESS=taken, **wrong)
    logged = run_command(("callback",), env, tmp_path).stderr
    assert logged.count("unknown_variable") == 2
    assert '"nearest": "PAYCENTER_LOG_LEVEL"' in logged


def test_imports_of_the_commands_are_visible_and_late() -> None:
    """Import rules read statements; `paycenter --help` loads none of the modules."""
    graph: Any = grimp.build_graph("paycenter_server", cache_dir=None)
    seen = graph.find_modules_directly_imported_by("paycenter_server.cli")
    assert seen >= {f"paycenter_server.{name}" for name in ("cli.processes", "local.commands", "simulator.cli")}
    script = (
        "import sys; from click.testing import CliRunner; from paycenter_server.cli import main\n"
        "assert 'simulator' in CliRunner().invoke(main, ['--help']).output\n"
        "print([name for name in ('asyncio', 'grpc', 'aiohttp', 'asyncpg', 'pydantic', 'structlog') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
