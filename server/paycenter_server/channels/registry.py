"""The installed channels, which register under the entry point group `paycenter.channels`.

An entry point names a sequence of `ChannelSpec`. Any package can declare one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points

from paycenter_server.channels.specs import ChannelSpec

GROUP = "paycenter.channels"


class Registry(Mapping[str, ChannelSpec]):
    """Channel specs by code."""

    def __init__(self, specs: Iterable[ChannelSpec]) -> None:
        self._specs: dict[str, ChannelSpec] = {}
        for spec in specs:
            if spec.code in self._specs:
                raise ValueError(f"two installed packages register the channel code {spec.code!r}; remove one of them")
            self._specs[spec.code] = spec

    def __getitem__(self, code: str) -> ChannelSpec:
        return self._specs[code]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._specs))

    def __len__(self) -> int:
        return len(self._specs)


def installed() -> Registry:
    """Every channel that an installed package registers."""
    return Registry(spec for point in entry_points(group=GROUP) for spec in point.load())
