"""The reference documents every fault, call, option and endpoint."""

from __future__ import annotations

from pathlib import Path

from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.cli import command
from paycenter_server.simulator.faults import APIS, FAULTS
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.settings import SimulatorConfig

TEXT = (Path(__file__).parents[2] / "docs/simulator.md").read_text(encoding="utf-8")


def test_every_fault_and_call_is_in_the_reference() -> None:
    assert [name for name in (*FAULTS, *APIS) if f"`{name}`" not in TEXT] == []
    for name, text in FAULTS.items():
        assert f"| `{name}` | {text} |" in TEXT


def test_every_option_is_in_the_reference() -> None:
    options = [option for parameter in command.params for option in parameter.opts]
    assert [option for option in options if f"`{option}`" not in TEXT] == []


def test_every_own_endpoint_is_in_the_reference(keys: SimulatorKeys) -> None:
    app = create_app(SimulatorConfig(keys_dir=keys.directory))
    routes = ((route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None)
    own = [f"{method} {path}" for method, path in routes if path.startswith("/simulator/") and method != "HEAD"]
    assert len(own) > 15
    assert [name for name in own if f"`{name.replace('{out_trade_no}', '{no}')}`" not in TEXT] == []
