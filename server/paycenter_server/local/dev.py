"""`paycenter dev`: the whole system on one machine, from nothing, with one command."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from paycenter_server.local.banner import banner_lines, next_step_lines
from paycenter_server.local.children import WANTED, Command, Ports, cli_command, resolve_ports
from paycenter_server.local.datadir import DataDir, default_data_dir
from paycenter_server.local.embedded import refuse_production
from paycenter_server.local.errors import LocalError, error_sentence
from paycenter_server.local.session import Session
from paycenter_server.local.signals import Stopped, StopSignals
from paycenter_server.local.variables import unknown_settings


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What `paycenter dev` was asked for.

    `ports` are those of the first start, `port` is that of the API at any. `command` makes the children's argv; tests replace it.
    """

    data_dir: Path = field(default_factory=default_data_dir)
    reset: bool = False
    ephemeral: bool = False
    port: int | None = None
    quiet: bool = False
    demo: bool = True
    command: Command = cli_command
    ports: Ports = WANTED


def run_dev(options: DevOptions) -> int:
    """Run until Ctrl-C or SIGTERM; the exit code: 0 after a clean stop, 1 if something could not be started (said on stderr)."""
    console = _Terminal(quiet=options.quiet)
    try:
        with StopSignals(console.say) as signals:
            _run(options, console, signals)
    except LocalError as error:
        console.error(str(error))
        return 1
    except OSError as error:  # a full disk, for one
        console.error(error_sentence(error))
        return 1
    except Stopped:
        console.say("Stopped.")
    return 0


def _run(options: DevOptions, console: "_Terminal", signals: StopSignals) -> None:
    refuse_production("`paycenter dev`")
    for name, nearest in unknown_settings():
        console.say(f"Warning: {name} is not a setting of PayCenter. The nearest setting is {nearest}.")
    data = DataDir.temporary() if options.ephemeral else DataDir(options.data_dir)
    with data:
        if options.reset and not options.ephemeral:
            data.reset()
            console.say(f"Deleted all data in {data.path}.")
        ports, changes = resolve_ports(data.ports(), options.ports, options.port)
        for change in changes:
            console.say(change)
        session = Session(data, ports, options.command, say=console.say, warn=console.warn)
        try:
            session.start()
            console.banner(session)
            _demo_at_first_start(options, session, console)
            session.watch()
        finally:
            signals.stopping = True
            console.say("Stopping ...")
            session.stop()


def _demo_at_first_start(options: DevOptions, session: Session, console: "_Terminal") -> None:
    marker = session.data.path / "first-run-done"
    if not options.demo or marker.exists():
        return
    # Marked beforehand: an interrupted demonstration does not run again at the next start (`paycenter demo --running` does it).
    marker.touch()
    code = session.run_demo()
    console.next_step(session)
    if code != 0:
        console.say(f"The demonstration ended with code {code}; the system keeps running.")


class _Terminal:
    """What the supervisor prints: its own lines on stderr, the addresses and keys on stdout."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def say(self, line: str) -> None:
        if not self._quiet:
            _write(f"paycenter | {line}")

    def warn(self, name: str, line: str) -> None:
        if not self._quiet:
            _write(f"{name:<9} | {line}")

    def error(self, message: str) -> None:
        _write(f"Error: {message}")

    def banner(self, session: Session) -> None:
        if not self._quiet:
            _print(banner_lines(session))

    def next_step(self, session: Session) -> None:
        if not self._quiet:
            _print(next_step_lines(session))


def _print(lines: list[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _write(text: str) -> None:
    # One write, and no buffer lock: a signal handler also comes here.
    try:
        os.write(sys.stderr.fileno(), (text + "\n").encode(errors="replace"))
    except (OSError, ValueError):
        # A terminal that is gone must not keep the servers from being stopped.
        return
