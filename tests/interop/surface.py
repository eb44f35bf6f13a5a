"""What of an SDK's public surface was played, so that no operation is forgotten, nor one that a new version adds.

Standard library only: it runs inside the throw-away environments.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any


class Watched:
    """An SDK's client that notes which of its methods were called."""

    def __init__(self, sdk: Any) -> None:
        self.sdk = sdk
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.sdk, name)
        if callable(found):
            self.called.add(name)
        return found


def operations(kind: type) -> dict[str, str]:
    """The public methods of an SDK's client, and the module that each is defined in (without its packages)."""
    found = {}
    for name, member in inspect.getmembers(kind, callable):
        if not name.startswith("_"):
            found[name] = str(getattr(member, "__module__", "")).rpartition(".")[2]
    return found


def compare(kind: type, called: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """Every operation was called, or it (or its module) is among those of other products; and nothing in that table is idle."""
    known = operations(kind)
    missing = sorted(
        name for name, module in known.items() if name not in set(called) and name not in elsewhere and module not in elsewhere
    )
    assert not missing, f"neither played nor named as another product's: {', '.join(missing)}"
    idle = sorted(set(elsewhere) - set(known) - set(known.values()))
    assert not idle, f"named, but the SDK has no such thing: {', '.join(idle)}"
    both = sorted(name for name in elsewhere if name in set(called))
    assert not both, f"named as another product's, but played: {', '.join(both)}"
