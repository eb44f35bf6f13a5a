"""The process tree with small children."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from paycenter_server.local.ports import free_port
from paycenter_server.local.process import pid_alive
from paycenter_server.local.tree import Child, Tree, TreeError
from support.local_fakes import wait_until

ENV = {"PATH": os.environ["PATH"]}
NOTE_AND_STOP = """
import signal, sys, time
def stop(*a):
    open({events!r}, "a").write({name!r} + "\\n"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
open({events!r} + "-up", "a").write("x")
signal.pause()
"""
HTTP = """
import http.server
class H(http.server.BaseHTTPRequestHandler):
    n = 0
    def do_GET(self):
        H.n += 1
        self.send_response(503 if H.n < 3 else 200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), H).serve_forever()
"""


def python(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", script]


def test_ordered_stop(tmp_path: Path) -> None:
    events = str(tmp_path / "events")
    tree = Tree(tmp_path)
    names = {"postgres-like": 9, "api": 0, "worker": 1, "merchant": 3, "simulator": 2}
    tree.start([Child(n, python(NOTE_AND_STOP.format(events=events, name=n)), ENV, stop_order=o) for n, o in names.items()])
    tree.wait_ready()
    up = Path(events + "-up")
    assert wait_until(lambda: up.exists() and up.stat().st_size == len(names))
    pids = [pid for name in names if (pid := tree.pid(name)) is not None]
    assert len(pids) == len(names)
    tree.stop()
    assert Path(events).read_text().split() == ["api", "worker", "simulator", "merchant", "postgres-like"]
    assert not any(map(pid_alive, pids))


def test_ready_by_http_and_by_port(tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    tree = Tree(tmp_path)
    try:
        tree.start(
            [
                Child("http", python(HTTP.format(port=one)), ENV, ready_url=f"http://127.0.0.1:{one}/health?x=1"),
                Child("port", python(HTTP.format(port=two)), ENV, ready_port=two),
                Child("once", python("print('done')"), ENV, once=True),
            ]
        )
        tree.wait_ready()
        assert (tmp_path / "http.log").read_text().count('" 503 ') == 2
        assert (tmp_path / "once.log").read_text() == "done\n"
    finally:
        tree.stop()


@pytest.mark.parametrize("once", [True, False])
def test_a_child_that_fails_shows_its_log(tmp_path: Path, once: bool) -> None:
    tree = Tree(tmp_path)
    child = Child("bad", python("import sys; print('no such table'); sys.exit(7)"), ENV, ready_port=1, once=once)
    try:
        tree.start([child])
        with pytest.raises(TreeError, match=r"(?s)bad ended with code 7.*no such table"):
            tree.wait_ready()
    finally:
        tree.stop()


def test_a_child_that_never_answers_times_out(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    try:
        script = "import signal; print('waiting for input', flush=True); signal.pause()"
        tree.start([Child("slow", python(script), ENV, ready_port=free_port(), ready_timeout=0.5)])
        with pytest.raises(TreeError, match=r"(?s)slow did not become ready in 0 s.*input"):
            tree.wait_ready()
    finally:
        tree.stop()


def test_another_process_on_the_port_does_not_make_a_child_ready(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for number, more in enumerate(({"ready_port": port}, {"ready_url": f"http://127.0.0.1:{port}/"})):
            tree = Tree(tmp_path)
            try:
                child = Child(f"idle{number}", python("import time; time.sleep(60)"), ENV, ready_timeout=0.5, **more)
                tree.start([child])
                with pytest.raises(TreeError, match=rf"its port {port} is taken by process {os.getpid()} \("):
                    tree.wait_ready()
            finally:
                tree.stop()


def test_a_child_whose_port_is_taken_is_named_with_the_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tree = Tree(tmp_path)
        try:
            tree.start([Child("second", python(HTTP.format(port=port, delay=0)), ENV, ready_port=port)])
            with pytest.raises(
                TreeError, match=rf"second ended with code 1, and its port {port} is taken by process {os.getpid()}"
            ):
                tree.wait_ready()
        finally:
            tree.stop()


def test_a_crash_is_restarted_told_and_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    warned: list[tuple[str, str]] = []
    tree = Tree(tmp_path, say=said.append, warn=lambda name, line: warned.append((name, line)))
    try:
        tree.start([Child("w", python("import signal; print('ERROR here', flush=True); signal.pause()"), ENV, max_restarts=1)])
        tree.wait_ready()
        first = tree.pid("w")
        assert first is not None
        tree.watch(lambda: ("w", "ERROR here") in warned)
        os.kill(first, signal.SIGKILL)
        tree.watch(lambda: tree.pid("w") not in (None, first))
        assert "w was killed by SIGKILL; restart 1 of 1 in 0.3 s" in said[0]
        second = tree.pid("w")
        assert second is not None
        os.kill(second, signal.SIGKILL)
        tree.watch(lambda: len(said) == 2)
        assert "not started again after 1 restarts" in said[1]
    finally:
        tree.stop()


def test_a_stubborn_child_and_its_children_are_killed(tmp_path: Path) -> None:
    said: list[str] = []
    script = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import signal; signal.pause()']); print(p.pid, flush=True)\n"
        "signal.pause()"
    )
    tree = Tree(tmp_path, say=said.append)
    tree.start([Child("mule", python(script), ENV, stop_timeout=0.3)])
    assert wait_until(lambda: (tmp_path / "mule.log").read_text().endswith("\n"))
    pids = [int((tmp_path / "mule.log").read_text()), tree.pid("mule") or 0]
    began = time.monotonic()
    tree.stop()
    assert time.monotonic() - began < 3
    assert said == ["mule did not stop in time and was killed"]
    assert wait_until(lambda: not any(map(pid_alive, pids)), 3)


def test_foreground_gives_its_exit_code(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    assert tree.run_foreground(Child("demo", python("raise SystemExit(5)"), ENV)) == 5
