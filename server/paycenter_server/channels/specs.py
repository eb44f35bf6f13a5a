"""How a channel code describes itself: what it offers, what it needs, and how its codec is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

from paycenter_server.channels.protocol import Codec, PayRequest, RefundRequest
from paycenter_server.domain.errors import Violation

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequiredExtra:
    """A required channel extra of a submit: one of `names`."""

    names: tuple[str, ...]


class Scope(StrEnum):
    """To what a configuration field belongs.

    - ACCOUNT: the merchant's account, which channels and apps share. Keys are of this kind.
    - ATTEMPT: the way to pay. An attempt and its refunds keep the value that the attempt began with (WeChat Pay: the appid).
    - CHANNEL: the way to pay. The present value applies to earlier attempts too.
    """

    ACCOUNT = "ACCOUNT"
    ATTEMPT = "ATTEMPT"
    CHANNEL = "CHANNEL"


class FieldKind(StrEnum):
    """How a form takes a field: as a line of text, as PEM (pasted or uploaded), or as one of its choices."""

    TEXT = "TEXT"
    PEM = "PEM"
    SELECT = "SELECT"


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One field of a channel's configuration, and how a form shows it.

    - `label`: its name for people; without it the form shows `name`. `help`: a hint, a file's name for example.
    - `mode`: the value of the spec's `mode_field` that needs the field, "" for all.
    - `choices`: the values of a SELECT with their names for people.
    - `certificates`: its certificates have an end, of which operators are warned.
    """

    name: str
    secret: bool = False
    scope: Scope = Scope.ACCOUNT
    label: str = ""
    kind: FieldKind = FieldKind.TEXT
    help: str = ""
    mode: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    certificates: bool = False


class Browser(StrEnum):
    """What a payer's browser is: inside WeChat, inside Alipay, on a phone, or on a desk."""

    WECHAT = "WECHAT"
    ALIPAY = "ALIPAY"
    PHONE = "PHONE"
    DESK = "DESK"


@dataclass(frozen=True, slots=True)
class CashierOffer:
    """How the cashier offers a channel.

    - `browsers`: those in which it works. A QR code on the phone that would have to scan it helps nobody.
    - `rank`: the smaller one is offered before the larger one.
    - `titles`: its name for payers, and `scanner`: the app that scans its QR codes, both in each language of the cashier (zh, en).
    - `extras`: the channel extras that the cashier sends.
    """

    browsers: tuple[Browser, ...]
    rank: int
    titles: Mapping[str, str]
    scanner: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, str] = field(default_factory=dict)


def _no_limits(request: PayRequest | RefundRequest) -> Sequence[Violation]:
    return ()


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """The description of a channel code, with which a package registers it.

    - `family`: the channels that share a configuration.
    - `config_fields`: in the order in which a form shows them. `mode_field`: the one that says which others are needed.
    - `identity_fields`: the fields of the account that identify the merchant within the family. They never change, and are also
      facts of the codec's `account`. Without them the whole `account` of the codec is the identity.
    - `account_ways`: values of the other fields with which `check` sees every kind of key, to check an account without a channel.
    - `own_config`: PayChannelConfig in the protos has a message for the family; otherwise the configuration is a GenericConfig.
    - `display_modes`: the first is the default. `required_extras`: what a submit must contain.
    - `check`: names every invalid field of a configuration. `build`: builds the codec.
    - `signed`: requests are signed, which takes up to a millisecond of the processor (`services/signing.py`).
    - `limits`, `refund_limits`: name every field that the channel would refuse.
    - `content_minutes`: how long the display content is valid.
    - `attempt_life`: for bar codes, the time until the attempt is cancelled. Such an attempt is sent once, and then only queried.
    - `longest_life`: the longest life of an attempt that the channel accepts. After it the next submit creates another attempt.
    - `close_after`: the time after the creation of an attempt before which it must not be closed.
    - `alarm_codes`: error codes that mean a wrong key, clock or configuration, which an operator must correct.
    - `title`: its name for people. `family_title`: that of its family; `short_title`: its name beside that of the family.
    - `trial`: builds a codec whose orders need no payer, for channels that check some of the configuration only with an order.
    - `cashier`: how the cashier offers it; None if it does not.
    """

    code: str
    family: str
    title: str
    display_modes: tuple[str, ...]
    config_fields: tuple[ConfigField, ...]
    check: Callable[[Mapping[str, str]], Sequence[Violation]]
    build: Callable[[Mapping[str, str]], Codec]
    own_config: bool = False
    identity_fields: tuple[str, ...] = ()
    account_ways: tuple[Mapping[str, str], ...] = ({},)
    required_extras: tuple[RequiredExtra, ...] = ()
    development_only: bool = False
    signed: bool = True
    limits: Callable[[PayRequest], Sequence[Violation]] = _no_limits
    refund_limits: Callable[[RefundRequest], Sequence[Violation]] = _no_limits
    content_minutes: int = 60
    attempt_life: timedelta | None = None
    longest_life: timedelta | None = None
    close_after: timedelta = timedelta(0)
    alarm_codes: frozenset[str] = frozenset()
    trial: Callable[[Mapping[str, str]], Codec] | None = None
    family_title: str = ""
    short_title: str = ""
    mode_field: str = ""
    cashier: CashierOffer | None = None

    @property
    def config_message(self) -> str:
        """The field of PayChannelConfig that holds this channel's configuration."""
        return self.family if self.own_config else "generic"

    @property
    def secret_fields(self) -> frozenset[str]:
        """The names of the fields that are secrets."""
        return frozenset(item.name for item in self.config_fields if item.secret)

    def fields_of(self, *scopes: Scope) -> list[ConfigField]:
        """The fields of the configuration that belong to these scopes; all if none is given."""
        return [item for item in self.config_fields if not scopes or item.scope in scopes]

    def needs(self, extra: str) -> bool:
        """Whether a submit must contain this channel extra, or may contain it in place of another one."""
        return any(extra in required.names for required in self.required_extras)

    def of_scope(self, config: Mapping[str, T], *scopes: Scope) -> dict[str, T]:
        """The part of a configuration that belongs to these scopes."""
        names = {item.name for item in self.fields_of(*scopes)}
        return {name: value for name, value in config.items() if name in names}

    def identity(self, config: Mapping[str, str]) -> str:
        """The identity of the account in a configuration; "" if the configuration does not state it.

        Without `identity_fields` the configuration must be a checked one, because the codec is built.
        """
        if self.identity_fields:
            values = [config.get(name, "") for name in self.identity_fields]
            return "/".join(values) if all(values) else ""
        return "/".join(value for _, value in sorted(self.build(config).account.items()))

    def identity_facts(self, codec: Codec) -> dict[str, str]:
        """The facts by which a message names the merchant."""
        named = {name: value for name, value in codec.account.items() if name in self.identity_fields}
        return named or dict(codec.account)

    def check_account(self, config: Mapping[str, str]) -> list[Violation]:
        """Every invalid field of an account without a channel: the identity, and what is set. A channel needs more."""
        if not self.identity_fields:
            return list(self.check(config))
        found: dict[str, Violation] = {}
        for way in self.account_ways:
            for violation in self.check({**way, **config}):
                if violation.field in self.identity_fields or violation.field in config:
                    found.setdefault(violation.field, violation)
        return list(found.values())
