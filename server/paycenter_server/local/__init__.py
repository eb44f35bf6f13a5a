"""The embedded PostgreSQL and Valkey and the process tree of `paycenter dev`: for development and tests, never for production."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paycenter_server.local.embedded import Embedded, LocalServices
    from paycenter_server.local.errors import LocalError

__all__ = ["Embedded", "LocalError", "LocalServices"]


def __getattr__(name: str) -> object:
    # Loaded when asked for: the CLI imports this package for each of its commands.
    if name == "LocalError":
        from paycenter_server.local.errors import LocalError

        return LocalError
    if name in ("Embedded", "LocalServices"):
        from paycenter_server.local import embedded

        return vars(embedded)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
