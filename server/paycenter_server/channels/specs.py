"""How a channel code describes itself: what it offers, what it needs, and how its codec is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from paycenter_server.channels.protocol import Codec, PayRequest, RefundRequest
from paycenter_server.domain.errors import Violation


@dataclass(frozen=True, slots=True)
class RequiredExtra:
    """A required channel extra of a submit: one of `names`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One field of a channel's configuration."""

    name: str
    secret: bool = False


def _no_limits(request: PayRequest | RefundRequest) -> Sequence[Violation]:
    return ()


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """The description of a channel code, with which a package registers it.

    - `family`: the channels that share a configuration.
    - `own_config`: PayChannelConfig in the protos has a message for the family; otherwise the configuration is a GenericConfig.
    - `display_modes`: the first is the default. `required_extras`: what a submit must contain.
    - `check`: names every invalid field of a configuration. `build`: builds the codec.
    - `limits`, `refund_limits`: name every field that the channel would refuse.
    - `content_minutes`: how long the display content is valid.
    - `attempt_life`: for bar codes, the time until the attempt is cancelled. Such an attempt is sent once, and then only queried.
    - `longest_life`: the longest life of an attempt that the channel accepts. After it the next submit creates another attempt.
    - `close_after`: the time after the creation of an attempt before which it must not be closed.
    - `alarm_codes`: error codes that mean a wrong key, clock or configuration, which an operator must correct.
    - `trial`: builds a codec whose orders need no payer, for channels that check some of the configuration only with an order.
    """

    code: str
    family: str
    title: str
    display_modes: tuple[str, ...]
    config_fields: tuple[ConfigField, ...]
    check: Callable[[Mapping[str, str]], Sequence[Violation]]
    build: Callable[[Mapping[str, str]], Codec]
    own_config: bool = False
    required_extras: tuple[RequiredExtra, ...] = ()
    development_only: bool = False
    limits: Callable[[PayRequest], Sequence[Violation]] = _no_limits
    refund_limits: Callable[[RefundRequest], Sequence[Violation]] = _no_limits
    content_minutes: int = 60
    attempt_life: timedelta | None = None
    longest_life: timedelta | None = None
    close_after: timedelta = timedelta(0)
    alarm_codes: frozenset[str] = frozenset()
    trial: Callable[[Mapping[str, str]], Codec] | None = None

    @property
    def config_message(self) -> str:
        """The field of PayChannelConfig that holds this channel's configuration."""
        return self.family if self.own_config else "generic"

    @property
    def secret_fields(self) -> frozenset[str]:
        """The names of the fields that are secrets."""
        return frozenset(item.name for item in self.config_fields if item.secret)
