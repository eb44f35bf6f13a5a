"""`paycenter demo`: the whole system for one demonstration, leaving nothing behind."""

import sys

from paycenter_server.local.children import Command, choose_ports, cli_command
from paycenter_server.local.datadir import DataDir
from paycenter_server.local.embedded import refuse_production
from paycenter_server.local.errors import LocalError, error_sentence
from paycenter_server.local.session import Session
from paycenter_server.local.signals import Stopped, StopSignals

INTERRUPTED = 130


def run_demo(json: bool, command: Command = cli_command) -> int:
    """Run the demonstration on a data folder and ports of its own; its exit code, 1 if it could not start, 130 if interrupted."""
    try:
        with StopSignals(lambda line: None) as signals:
            return _run(json, command, signals)
    except LocalError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"Error: {error_sentence(error)}\n")
        return 1
    except Stopped:
        return INTERRUPTED


def _run(json: bool, command: Command, signals: StopSignals) -> int:
    refuse_production("`paycenter demo`")
    with DataDir.temporary() as data:
        ports, _ = choose_ports(None)
        # A demonstration never uses a real server: the PAYCENTER_ variables of the environment do not count.
        session = Session(data, ports, command, external=False)
        try:
            session.start()
            return session.run_demo(*(["--json"] if json else []))
        finally:
            signals.stopping = True
            session.stop()
