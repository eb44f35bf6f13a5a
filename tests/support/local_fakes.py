"""Small programs in the place of the real children, and a runner for `dev` with them."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paycenter_server.local.children import Ports

HERE = Path(__file__).resolve().parent.parent


def fake_command(*words: str) -> list[str]:
    """Stands in for `cli_command`."""
    return [sys.executable, "-S", str(Path(__file__).resolve()), *words]


def free_ports() -> "Ports":
    """Different free ports."""
    # Here and not above: this file is also the fake program, which runs on a bare interpreter.
    from paycenter_server.local.children import Ports

    from support.ports import free_port

    taken: set[int] = set()
    while len(taken) < 6:
        taken.add(free_port())
    return Ports(*taken)


def run_dev_process(
    data_dir: Path, ports: "Ports", *, env: dict[str, str] | None = None, ignored: str = "", **options: object
) -> "subprocess.Popen[str]":
    """Start `dev` with fake children as a process of its own; `ignored`: the names of signals that its parent ignores."""
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    script = (
        f"import signal, sys; sys.path.insert(0, {str(HERE)!r})\n"
        f"for name in {ignored.split()!r}: signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
        "from pathlib import Path\n"
        "from support.local_fakes import fake_command\n"
        "from paycenter_server.local.children import Ports\n"
        "from paycenter_server.local.dev import DevOptions, run_dev\n"
        f"sys.exit(run_dev(DevOptions(data_dir=Path({str(data_dir)!r}), command=fake_command, ports={ports!r}, {given})))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: object, seconds: float = 15.0) -> bool:
    """Poll until `condition()` is true; whether it became so."""
    assert callable(condition)
    # Here and not above, for the same reason.
    from support.waiting import eventually_sync

    try:
        return bool(eventually_sync(condition, seconds))
    except AssertionError:
        return False


def _note(what: str) -> None:
    with open(os.path.join(os.environ["PAYCENTER_DATA_DIR"], "events"), "a") as file:
        file.write(what + "\n")


def _serve(name: str, port: int | None, second: int | None = None) -> None:
    def stop(signum: int, frame: object) -> None:
        _note(f"stop {name}")
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    _note(f"start {name}")
    if name == "worker" and os.environ.get("FAKE_WORKER_CRASHES"):
        sys.exit(3)
    if port is None:
        while True:
            signal.pause()
    # Kept open by this name, and never accepted from.
    also = None if second is None else socket.create_server(("127.0.0.1", second))
    server = socket.create_server(("127.0.0.1", port))
    while also is None or also.fileno() >= 0:
        connection, _ = server.accept()
        connection.close()


def _main(name: str, words: list[str]) -> None:
    def option(key: str) -> str:
        return words[words.index(key) + 1]

    if name == "seed":
        if os.environ.get("FAKE_SEED_FAILS"):
            print("the schema is newer than the program")
            sys.exit(4)
        folder = option("--data-dir")
        with open(os.path.join(folder, "dev.json"), "w") as file:
            json.dump(
                {"app": {"app_key": "demo"}, "credentials": {"key_id": "k1", "secret": "s3cret"}, "notification_secret": "whsec_x"},
                file,
            )
        _note("seeded")
    elif name == "demo":
        print("demonstration", words[words.index("--data-file") + 2 :], flush=True)
        sys.exit(int(os.environ.get("FAKE_DEMO_EXIT", "0")))
    elif name in ("simulator", "shop"):
        _serve(name, int(option("--port")))
    elif name == "worker":
        _serve(name, None)
    else:
        key = {"serve": "PAYCENTER_GRPC_ADDRESS", "callback": "PAYCENTER_CALLBACK_ADDRESS", "console": "PAYCENTER_CONSOLE_ADDRESS"}[
            name
        ]
        second = int(os.environ["PAYCENTER_CONNECT_ADDRESS"].rsplit(":", 1)[1]) if name == "serve" else None
        _serve(name, int(os.environ[key].rsplit(":", 1)[1]), second)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
