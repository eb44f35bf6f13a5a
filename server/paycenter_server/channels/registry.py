"""The installed channels, which register under the entry point group `paycenter.channels`.

An entry point names a sequence of `ChannelSpec`. Any package can declare one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

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

    @property
    def as_registered(self) -> list[ChannelSpec]:
        """The specs in the order in which packages declare them, those of a family beside each other."""
        order = {family: number for number, family in enumerate(dict.fromkeys(spec.family for spec in self._specs.values()))}
        return sorted(self._specs.values(), key=lambda spec: order[spec.family])

    @property
    def families(self) -> list[str]:
        """The installed families, sorted."""
        return sorted({spec.family for spec in self._specs.values()})

    def of_family(self, family: str) -> ChannelSpec | None:
        """A channel of the family, which share the configuration of the account; None if none is installed."""
        return next((spec for spec in self.values() if spec.family == family), None)

    def __len__(self) -> int:
        return len(self._specs)


@lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    # This reads the metadata of every package on the path: 13 ms.
    return tuple(entry_points(group=GROUP))


def installed() -> Registry:
    """Every channel that an installed package registers."""
    return Registry(spec for point in _entry_points(tuple(sys.path)) for spec in point.load())
