"""The settings, from the environment (`PAYCENTER_…`). Read once, in bootstrap."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, AliasPath, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_PREFIX = "PAYCENTER_"
# A refund can come a year later, but most of what happens to an order happens in its first months.
_LEAST_MONTHS = 3


class SettingsError(ValueError):
    """A setting that is well-formed and cannot be used. The message names its variable."""


class DatabaseSettings(BaseSettings):
    """What a command needs that only reads and writes the database."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", populate_by_name=True)

    database_url: str = Field(description="postgresql://user:password@host/database")
    database_pool: int = Field(8, ge=1, le=64, description="connections for each process")

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: str) -> str:
        return _with_scheme(value, ("postgresql", "postgres", "postgresql+asyncpg"), "postgresql://user:password@host/database")


class Settings(DatabaseSettings):
    """Every setting with its meaning; `paycenter dev` sets them all, a deployment sets those without a default."""

    mode: Literal["production", "development"] = Field("production", description="development allows mock and reflection")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="for the wake-up and cron only; may lose everything")
    master_key_file: Path = Field(description="base64 keys of 32 bytes, one a line, the current one first")
    grpc_address: str = Field("0.0.0.0:50051", description="where the gRPC server listens")
    calls: int = Field(256, ge=1, description="calls in progress in one `serve`, without those that wait for a channel")
    app_calls: int = Field(128, ge=1, description="of them for one app, or for all operators")
    app_calls_per_second: float = Field(0, ge=0, description="calls of an app in a second, in each `serve`; 0: no limit")
    connections: int = Field(1000, ge=1, description="connections to one `serve`, and as many by Connect")
    connection_calls: int = Field(1000, ge=1, description="calls of a connection at a time; its client holds more back")
    connect_address: str = Field("", description="where `serve` also answers the Connect protocol (HTTP and JSON); empty: nowhere")
    connect_origins: str = Field(
        "", description="sites whose pages may call by the Connect protocol, comma separated, such as https://desk.example.com"
    )
    callback_address: str = Field("0.0.0.0:8901", description="where the callback sidecar listens")
    console_address: str = Field("127.0.0.1:8903", description="where the management console listens")
    order_callback_url: str = Field(
        validation_alias=AliasChoices("PAYCENTER_ORDER_CALLBACK_URL", "PAYCENTER_ORDER_NOTIFY_URL"),
        description="where channels send callbacks about payments, without the channel id (alias: PAYCENTER_ORDER_NOTIFY_URL)",
    )
    refund_callback_url: str = Field(
        validation_alias=AliasChoices("PAYCENTER_REFUND_CALLBACK_URL", "PAYCENTER_REFUND_NOTIFY_URL"),
        description="where channels send callbacks about refunds, without the channel id (alias: PAYCENTER_REFUND_NOTIFY_URL)",
    )
    cashier_url: str = Field(
        "", description="where payers find the cashier, without the token; default /cashier at the host of the order callback URL"
    )
    notification_allowed_networks: str = Field(
        "", description="private networks that notifications may go to, comma separated CIDR"
    )
    event_retention_months: int = Field(
        0, ge=0, le=1200, description="whole months, before this one, whose events the ledger keeps; at least 3; 0: all"
    )
    notification_log_retention_months: int = Field(
        0, ge=0, le=1200, description="whole months, before this one, whose deliveries the log keeps; at least 3; 0: all"
    )
    channel_timeout: float = Field(10.0, gt=0, le=60, description="seconds for one call of a channel")
    account_places: int = Field(
        16,
        ge=1,
        le=64,
        description="attempts of one account, and as many refunds, that the jobs of a worker settle at the same time",
    )
    account_calls_per_second: float = Field(
        50.0, gt=0, le=10_000, description="channel calls a second of each of these two jobs of a worker for one account"
    )
    account_calls_burst: int = Field(100, ge=1, le=10_000, description="calls that may be made at once after a pause")
    account_breaker_failures: int = Field(
        5, ge=1, le=1_000, description="calls in a row without an answer after which an account gets only trials"
    )
    tls_certificate_file: Path | None = Field(None, description="PEM; with the key, the gRPC server speaks TLS")
    tls_key_file: Path | None = Field(None, description="PEM")
    reflection: bool | None = Field(None, description="gRPC reflection; default on in development")
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    data_dir: Path | None = Field(None, description="of paycenter dev")

    @field_validator("order_callback_url", "refund_callback_url")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an absolute http or https address without a query")
        return value.rstrip("/")

    @field_validator("grpc_address", "callback_address", "console_address")
    @classmethod
    def _has_port(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("connect_address")
    @classmethod
    def _is_empty_or_has_port(cls, value: str) -> str:
        return cls._has_port(value) if value else value

    @field_validator("connect_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for item in filter(None, (item.strip() for item in value.split(","))):
            parts = urlsplit(item)
            if parts.scheme not in ("http", "https") or not parts.hostname or f"{parts.scheme}://{parts.netloc}" != item:
                raise ValueError(f"{item!r} is not a site such as https://desk.example.com")
        return value

    @field_validator("event_retention_months", "notification_log_retention_months")
    @classmethod
    def _is_long_enough(cls, value: int) -> int:
        if 0 < value < _LEAST_MONTHS:
            raise ValueError(f"must be 0, to keep everything, or at least {_LEAST_MONTHS}")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        return _with_scheme(value, ("redis", "rediss", "unix"), "redis://host:6379/0")

    @field_validator("notification_allowed_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for item in value.split(","):
            if item.strip():
                ipaddress.ip_network(item.strip())  # ValueError: says what is wrong
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("set both PAYCENTER_TLS_CERTIFICATE_FILE and PAYCENTER_TLS_KEY_FILE, or neither")
        if self.mode == "production":
            for name, value in (("order", self.order_callback_url), ("refund", self.refund_callback_url)):
                if not value.startswith("https://"):
                    raise ValueError(f"in production PAYCENTER_{name.upper()}_CALLBACK_URL must be https")
        return self

    @property
    def cashier_base(self) -> str:
        """The address of the cashier without the token. The sidecar serves it."""
        parts = urlsplit(self.order_callback_url)
        return self.cashier_url.rstrip("/") or f"{parts.scheme}://{parts.netloc}/cashier"

    @property
    def connect_allowed_origins(self) -> frozenset[str]:
        """The sites of `connect_origins`."""
        return frozenset(item.strip() for item in self.connect_origins.split(",") if item.strip())

    @property
    def production(self) -> bool:
        """Whether this is production mode."""
        return self.mode == "production"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[IPv6 address]:port`; ValueError, which says what is wrong, otherwise."""
    host, colon, port = address.rpartition(":")
    if address.endswith("]") or not colon:
        raise ValueError(f"{address!r} has no port; write host:port, for example 127.0.0.1:50051")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{address!r} has no port from 0 to 65535 behind its last colon; write host:port")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not host or (":" in host) != bracketed or set(host) & {"[", "]"}:
        raise ValueError(f"{address!r} is not host:port; an IPv6 address is written in brackets, for example [::1]:50051")
    return host, int(port)


def known_variables() -> list[str]:
    """Every variable that is a setting, sorted."""
    names: set[str] = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        choices: list[str | AliasPath] = alias.choices if isinstance(alias, AliasChoices) else [_PREFIX + name.upper()]
        names.update(choice for choice in choices if isinstance(choice, str))
    return sorted(names)


def unknown_variables(names: Iterable[str]) -> list[tuple[str, str]]:
    """Of the names of environment variables those that begin with PAYCENTER_ and are no setting, each with the nearest setting."""
    known = known_variables()
    unknown = sorted(name for name in names if name.upper().startswith(_PREFIX) and name.upper() not in known)
    # A cutoff of 0 answers a name in any case, since all begin alike.
    return [(name, difflib.get_close_matches(name.upper(), known, 1, 0)[0]) for name in unknown]


def _with_scheme(value: str, schemes: tuple[str, ...], example: str) -> str:
    """The URL unchanged; ValueError, without the URL, which may hold a password, if it is not one of the schemes."""
    try:
        scheme, port = urlsplit(value).scheme, urlsplit(value).port
    except ValueError:
        scheme, port = "", None
    if scheme not in schemes or port == 0:
        raise ValueError(f"is not an address such as {example}")
    return value
