"""`dev` and `demo` as processes of their own, with small children in the place of the real ones."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from paycenter_server.local import place
from paycenter_server.local.commands import demo, dev
from paycenter_server.local.dev import DevOptions, run_dev
from paycenter_server.local.process import pid_alive
from support.local_fakes import HERE, fake_command, free_ports, run_dev_process, wait_until

Process = subprocess.Popen  # of str


class Output:
    """Reads a process's output as far as a pattern."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process, self.text = process, ""

    def until(self, pattern: str) -> str:
        assert self.process.stdout is not None
        while not re.search(pattern, self.text):
            line = self.process.stdout.readline()
            assert line, f"ended without {pattern!r}:\n{self.text}"
            self.text += line
        return self.text

    def rest(self, seconds: float = 20) -> str:
        self.text += self.process.communicate(timeout=seconds)[0]
        return self.text


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def tree_of(process: "subprocess.Popen[str]") -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def test_dev_from_nothing_to_ctrl_c(
    data_dir: Path, processes: list["subprocess.Popen[str]"], capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.perf_counter()
    ports = free_ports()
    processes.append(process := run_dev_process(data_dir, ports))
    output = Output(process)
    text = output.until("PayCenter is running")
    cold = time.perf_counter() - began
    text = output.until(r"demonstration \[\]")
    assert (
        "not for production" in text and f"127.0.0.1:{ports.grpc}" in text and "whsec_x" in text and str(data_dir / "logs") in text
    )
    pids = tree_of(process)
    assert len(pids) >= 8  # six children, Valkey, PostgreSQL and its helpers
    process.send_signal(signal.SIGINT)
    output.until("Stopping")
    process.send_signal(signal.SIGINT)
    assert "Stopped." in output.rest() and process.returncode == 0
    assert not any(map(pid_alive, pids))
    events = (data_dir / "events").read_text().split("\n")
    assert events.index("seeded") < events.index("start serve")
    stops = [event.removeprefix("stop ") for event in events if event.startswith("stop")]
    assert set(stops[:3]) == {"serve", "callback", "console"} and stops[3:] == ["worker", "simulator", "shop"]
    assert (data_dir / "dev.json").stat().st_mode & 0o077 == 0
    key = data_dir / "secrets" / "master.key"
    assert len(key.read_text().strip()) == 44 and key.stat().st_mode & 0o077 == 0

    before, began = key.read_text(), time.perf_counter()
    processes.append(process := run_dev_process(data_dir, ports))
    output = Output(process)
    output.until("PayCenter is running")
    warm = time.perf_counter() - began
    process.send_signal(signal.SIGTERM)
    assert "demonstration" not in output.rest() and process.returncode == 0
    assert key.read_text() == before
    with capsys.disabled():
        print(f"\n  dev with small children, with the interpreter's start: cold {cold:.2f} s, warm {warm:.2f} s")


def test_sigint_stops_it_also_where_the_parent_ignores_it(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    """As in the background of a script; a hang-up that is ignored (nohup) stays so."""
    processes.append(process := run_dev_process(data_dir, free_ports(), demo=False, ignored="SIGINT SIGHUP"))
    output = Output(process)
    output.until("PayCenter is running")
    pids = tree_of(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert "Stopped." in output.rest() and process.returncode == 0
    assert not any(map(pid_alive, pids))


def children_named(process: "subprocess.Popen[str]", program: str) -> list[psutil.Process]:
    """The direct children that run `program`; one that ends while it is looked at does not count."""
    found = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name().startswith(program[:8]):
                found.append(child)
    return found


def test_kill_9_leaves_nothing_and_the_next_start_recovers(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    ports = free_ports()
    for round_ in range(3):
        processes.append(process := run_dev_process(data_dir, ports, demo=False))
        Output(process).until("PayCenter is running")
        pids = tree_of(process)
        if round_ == 1:  # as after a power failure: the database had no time either
            for child in children_named(process, "postgres"):
                child.kill()
        process.kill()
        process.wait()
        if round_ != 0:  # the first time the next start does not wait for the old one's end
            assert wait_until(lambda pids=pids: not any(map(pid_alive, pids)), 10)
    assert wait_until(lambda: not any(map(pid_alive, pids)), 10)


def test_a_dead_database_is_started_again(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    processes.append(process := run_dev_process(data_dir, free_ports(), demo=False))
    output = Output(process)
    output.until("PayCenter is running")
    for name, program in (("PostgreSQL", "postgres"), ("Valkey", "valkey-server")):
        first = children_named(process, program)[0]
        first.kill()
        output.until(f"{name} has ended and is started again")
        assert wait_until(lambda p=program, f=first.pid: f not in tree_of(process) and children_named(process, p))
    process.send_signal(signal.SIGTERM)
    output.rest()
    assert process.returncode == 0


def test_kill_9_while_the_cluster_is_made(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    processes.append(process := run_dev_process(data_dir, free_ports(), demo=False))
    assert wait_until(lambda: list((data_dir / "postgres").glob("cluster-*/global")))
    pids = tree_of(process)
    process.kill()
    process.wait()
    assert wait_until(lambda: not any(map(pid_alive, pids)), 10)
    processes.append(process := run_dev_process(data_dir, free_ports(), demo=False))
    Output(process).until("PayCenter is running")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not list((data_dir / "postgres").glob("cluster-*"))


def test_a_second_dev_is_refused_with_the_pid(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    processes.append(first := run_dev_process(data_dir, free_ports(), demo=False))
    Output(first).until("PayCenter is running")
    for reset in (False, True):
        processes.append(second := run_dev_process(data_dir, free_ports(), demo=False, reset=reset))
        assert f"in use by process {first.pid}" in Output(second).rest()
        assert second.returncode == 1
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0


def test_port_clash_reset_and_crash(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    ports = free_ports()
    with socket.create_server(("127.0.0.1", ports.simulator)):
        env = {"FAKE_WORKER_CRASHES": "1"}
        processes.append(process := run_dev_process(data_dir, ports, demo=False, reset=True, env=env))
        output = Output(process)
        text = output.until("worker ended with code 3; restart 2 of 5")
        assert f"Port {ports.simulator} (simulator) is taken by process {os.getpid()} (" in text and "Deleted all data" in text
        process.send_signal(signal.SIGTERM)
        output.rest()
    assert process.returncode == 0


def listening_in(process: "subprocess.Popen[str]") -> set[int]:
    """The ports that processes of this tree listen on."""
    found = set()
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found |= {one.laddr.port for one in child.net_connections() if one.status == psutil.CONN_LISTEN}
    return found


def shown(text: str) -> dict[str, int]:
    """The ports that `dev` printed."""
    return {name: int(port) for name, port in re.findall(r"^(\w+)=\S*127\.0\.0\.1:(\d+)", text, re.MULTILINE)}


def test_ports_stay_the_same_and_a_taken_one_is_an_error(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    first, other = free_ports(), free_ports()
    processes.append(process := run_dev_process(data_dir, first, demo=False))
    seen = shown(Output(process).until("Next, "))
    assert {name: seen[name] for name in asdict(first)} == asdict(first)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    # Other ports are preferred now; those of the first start are used.
    processes.append(process := run_dev_process(data_dir, other, demo=False))
    assert shown(Output(process).until("Next, ")) == seen
    assert listening_in(process) >= set(asdict(first).values())
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    with socket.create_server(("127.0.0.1", first.simulator)):
        processes.append(process := run_dev_process(data_dir, other, demo=False))
        text = Output(process).rest()
    assert process.returncode == 1
    assert f"simulator: port {first.simulator} is taken by process {os.getpid()} (" in text
    assert "PayCenter is running" not in text
    # Nothing stored points to the port of the database: it may move, and that is shown.
    with socket.create_server(("127.0.0.1", seen["database"])):
        processes.append(process := run_dev_process(data_dir, other, demo=False))
        text = Output(process).until("Next, ")
        assert f"Port {seen['database']} (postgres) is taken by process {os.getpid()} (" in text
        assert shown(text) == {**seen, "database": shown(text)["database"]}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_two_that_start_together_never_share_a_port(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    ports = free_ports()
    folders = [data_dir / "one", data_dir / "two"]
    data_dir.chmod(0o711)
    together = [run_dev_process(folder, ports, demo=False) for folder in folders]
    processes.extend(together)
    texts = []
    for process in together:
        output = Output(process)
        texts.append(output.until(r"Next, |Error: "))
        if "PayCenter is running" not in output.text:
            # "another program" if the other has let it go before its process is looked up.
            assert re.search(r"port \d+ is taken by (process \d+ \(|another program)", output.rest()), output.text
    up = [(process, shown(text)) for process, text in zip(together, texts, strict=True) if "PayCenter is running" in text]
    assert up
    for process, seen in up:
        assert listening_in(process) >= set(seen.values())
    # One that lost a port to the other chooses again.
    for process, folder in zip(together, folders, strict=True):
        if process not in [one for one, _ in up]:
            processes.append(again := run_dev_process(folder, ports, demo=False))
            up.append((again, shown(Output(again).until("Next, "))))
    used = [port for _, seen in up for port in seen.values()]
    assert len(set(used)) == len(used) == 16
    for process, _ in up:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    for folder in folders:
        place.remove_place(folder)


def test_what_is_printed_fits_80_columns_and_ends_with_the_next_step(
    data_dir: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    processes.append(process := run_dev_process(data_dir, free_ports(), demo=False, env={"COLUMNS": "40"}))
    output = Output(process)
    lines = output.until(r"demo --running(.|\n)*dev.json\n").splitlines()
    assert max(map(len, lines)) <= 80, lines
    assert "notification_secret=whsec_x" in lines
    assert f"data={data_dir}" in lines
    assert lines[-2].endswith("/paycenter demo --running \\")
    assert lines[-1] == f"    --data-file {data_dir}/dev.json"
    process.send_signal(signal.SIGTERM)
    output.rest()


def test_an_unknown_variable_is_named_once(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    env = {"PAYCENTER_CHANNEL_TIMOUT": "3", "PAYCENTER_CHANNEL_TIMEOUT": "4"}
    processes.append(process := run_dev_process(data_dir, free_ports(), demo=False, env=env))
    output = Output(process)
    text = output.until("Next, ")
    assert (
        text.count("PAYCENTER_CHANNEL_TIMOUT is not a setting of PayCenter. The nearest setting is PAYCENTER_CHANNEL_TIMEOUT.") == 1
    )
    for child in psutil.Process(process.pid).children():
        if "local_fakes" in " ".join(child.cmdline()):
            assert child.environ()["PAYCENTER_CHANNEL_TIMEOUT"] == "4"
            assert "PAYCENTER_CHANNEL_TIMOUT" not in child.environ()
    process.send_signal(signal.SIGTERM)
    output.rest()


def test_a_failing_seed_is_shown_and_nothing_is_left(data_dir: Path, processes: list["subprocess.Popen[str]"]) -> None:
    processes.append(process := run_dev_process(data_dir, free_ports(), env={"FAKE_SEED_FAILS": "1"}))
    text = Output(process).rest()
    assert process.returncode == 1
    assert "seed ended with code 4" in text and "the schema is newer than the program" in text
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(data_dir) in " ".join(p.info["cmdline"] or [])]


def test_ephemeral_is_removed(tmp_path: Path, processes: list["subprocess.Popen[str]"]) -> None:
    processes.append(process := run_dev_process(tmp_path / "unused", free_ports(), ephemeral=True))
    output = Output(process)
    text = output.until(r"demonstration \[\]")
    found = re.search(r"^data=(\S+paycenter-\S+)$", text, re.MULTILINE)
    assert "The data folder is removed at the end." in text
    assert found is not None and Path(found.group(1)).is_dir()
    process.send_signal(signal.SIGTERM)
    output.rest()
    assert not Path(found.group(1)).exists() and not (tmp_path / "unused").exists()


@pytest.mark.parametrize(("code", "json"), [(0, True), (9, False)])
def test_demo_passes_the_exit_code_and_cleans_up(code: int, json: bool, tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); from support.local_fakes import fake_command\n"
        f"from paycenter_server.local.demo import run_demo; sys.exit(run_demo({json}, fake_command))"
    )
    env = {**os.environ, "FAKE_DEMO_EXIT": str(code), "TMPDIR": str(tmp_path), "PAYCENTER_DATABASE_URL": "postgresql://real/one"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    assert done.stdout == f"demonstration {['--json'] if json else []}\n" and done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_production_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PAYCENTER_MODE", "production")
    assert run_dev(DevOptions(data_dir=data_dir, command=fake_command)) == 1
    assert "refused with PAYCENTER_MODE=production" in capfd.readouterr().err
    assert CliRunner().invoke(demo).exit_code == 1
    assert CliRunner().invoke(dev, ["--data-dir", str(data_dir)]).exit_code == 1
    assert list(data_dir.iterdir()) == []


def test_the_supervisor_imports_nothing_heavy() -> None:
    script = (
        "import sys, paycenter_server.local.commands, paycenter_server.local.dev, paycenter_server.local.demo\n"
        "print(sorted({'sqlalchemy', 'grpc', 'aiohttp', 'asyncpg', 'asyncio', 'rich', 'ssl', 'http'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
