"""What `paycenter dev` runs: the children, their ports and their environment."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from paycenter_server.local.embedded import LocalServices
from paycenter_server.local.errors import LocalError
from paycenter_server.local.ports import HOST, LEFTOVER_SECONDS, choose_port, holder, wait_free
from paycenter_server.local.tree import Child

Command = Callable[..., list[str]]
"""Makes the argv of a subcommand of the CLI: `command("serve")`. Tests put programs of their own in its place."""


def cli_command(*words: str) -> list[str]:
    """The argv of a subcommand of `paycenter`, run by this interpreter."""
    return [sys.executable, "-m", "paycenter_server.cli", *words]


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports of the children."""

    grpc: int
    simulator: int
    callback: int
    shop: int
    console: int
    connect: int

    def url(self, name: str) -> str:
        """The HTTP address of the child `name`."""
        return f"http://{HOST}:{getattr(self, name)}"


WANTED = Ports(grpc=50051, simulator=8900, callback=8901, shop=8902, console=8903, connect=8904)


def resolve_ports(kept: Mapping[str, int], wanted: Ports, grpc: int | None = None) -> tuple[Ports, list[str]]:
    """The ports of this start, and a sentence for each that is not the wanted one.

    `kept` are those of the last start of the data folder: its channels and the clients of its API point to them, so they are used
    again. So is `grpc` if it was asked for. LocalError, which names each, if one of these is taken. The others are chosen.
    """
    names = tuple(field.name for field in fields(Ports))
    fixed = {name: kept[name] for name in names if name in kept}
    if grpc is not None:
        fixed["grpc"] = grpc
    deadline = time.monotonic() + LEFTOVER_SECONDS
    taken = []
    for name, port in fixed.items():
        other = next((one for one in fixed if one != name and fixed[one] == port), None)
        if other is not None:
            taken.append(f"  {name}: port {port} is the port of {other} in this data folder")
        elif not wait_free(port, max(0.0, deadline - time.monotonic())):
            taken.append(f"  {name}: port {port} is taken by {holder(port)}")
    if taken:
        raise LocalError(
            "PayCenter does not start, because ports that this data folder uses are taken.\n"
            + "\n".join(taken)
            + "\nStop that process and start again, or use another data folder with --data-dir."
            + "\nThe port of the API can be changed with --port."
        )
    preferred = {name: fixed.get(name, getattr(wanted, name)) for name in names}
    return choose_ports(Ports(**preferred))


def choose_ports(wanted: Ports | None) -> tuple[Ports, list[str]]:
    """The wanted ports, each replaced by a free one if taken, and a sentence for each change. None: any free ports."""
    taken: set[int] = set()
    changes: list[str] = []
    chosen: dict[str, int] = {}
    for name in ("grpc", "simulator", "callback", "shop", "console", "connect"):
        preferred = None if wanted is None else getattr(wanted, name)
        port, changed = choose_port(preferred, taken)
        if changed:
            changes.append(f"Port {preferred} ({name}) is taken by {holder(preferred or 0)}: using {port}.")
        taken.add(port)
        chosen[name] = port
    return Ports(**chosen), changes


def environment(
    base: Mapping[str, str], data_dir: Path, services: LocalServices, ports: Ports, master_key_file: Path
) -> dict[str, str]:
    """The children's environment: `base` with the settings of development mode."""
    return {
        "PAYCENTER_NOTIFICATION_ALLOWED_NETWORKS": "127.0.0.0/8",
        **base,
        "PYTHONUNBUFFERED": "1",
        "PAYCENTER_MODE": "development",
        "PAYCENTER_DATA_DIR": str(data_dir),
        "PAYCENTER_DATABASE_URL": services.database_url,
        "PAYCENTER_REDIS_URL": services.redis_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file),
        "PAYCENTER_GRPC_ADDRESS": f"{HOST}:{ports.grpc}",
        "PAYCENTER_CONNECT_ADDRESS": f"{HOST}:{ports.connect}",
        "PAYCENTER_CALLBACK_ADDRESS": f"{HOST}:{ports.callback}",
        "PAYCENTER_CONSOLE_ADDRESS": f"{HOST}:{ports.console}",
        "PAYCENTER_ORDER_CALLBACK_URL": f"{ports.url('callback')}/callback/order",
        "PAYCENTER_REFUND_CALLBACK_URL": f"{ports.url('callback')}/callback/refund",
    }


def seed_child(data_dir: Path, ports: Ports, env: Mapping[str, str], command: Command) -> Child:
    """Migrates the schema and writes `dev.json`; idempotent."""
    urls = ("--simulator-url", ports.url("simulator"), "--shop-url", ports.url("shop"))
    return Child("seed", command("seed", "--data-dir", str(data_dir), *urls), env, once=True, ready_timeout=120)


def simulator_child(data_dir: Path, ports: Ports, env: Mapping[str, str], command: Command) -> Child:
    """The channels' simulator. Needs no database."""
    files = ("--keys", str(data_dir / "simulator-keys"), "--data", str(data_dir / "simulator.sqlite"))
    argv = command("simulator", "--host", HOST, "--port", str(ports.simulator), *files)
    return Child("simulator", argv, env, ready_port=ports.simulator, stop_order=2)


def service_children(data_dir: Path, ports: Ports, env: Mapping[str, str], command: Command) -> list[Child]:
    """API, callback sidecar, worker, console and the demo shop. They need the schema, the shop needs `dev.json`."""
    files = ("--data-file", str(data_dir / "dev.json"), "--store", str(data_dir / "shop.sqlite"))
    shop = command("shop", "--host", HOST, "--port", str(ports.shop), *files)
    return [
        Child("serve", command("serve"), env, ready_port=ports.grpc, stop_order=0),
        Child("callback", command("callback"), env, ready_port=ports.callback, stop_order=0),
        Child("worker", command("worker"), env, stop_order=1),
        Child("console", command("console"), env, ready_port=ports.console),
        Child("shop", shop, env, ready_port=ports.shop, stop_order=3),
    ]
