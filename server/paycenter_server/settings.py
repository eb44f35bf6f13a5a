"""The settings, from the environment (`PAYCENTER_…`). Read once, in bootstrap."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting with its meaning; `paycenter dev` sets them all, a deployment sets those without a default."""

    model_config = SettingsConfigDict(env_prefix="PAYCENTER_", extra="ignore", populate_by_name=True)

    mode: Literal["production", "development"] = Field("production", description="development allows mock and reflection")
    database_url: str = Field(description="postgresql://user:password@host/database")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="for the wake-up and cron only; may lose everything")
    master_key_file: Path = Field(description="base64 keys of 32 bytes, one a line, the current one first")
    grpc_address: str = Field("0.0.0.0:50051", description="where the gRPC server listens")
    callback_address: str = Field("0.0.0.0:8901", description="where the callback sidecar listens")
    order_callback_url: str = Field(
        validation_alias=AliasChoices("PAYCENTER_ORDER_CALLBACK_URL", "PAYCENTER_ORDER_NOTIFY_URL"),
        description="where channels send callbacks about payments, without the channel id (alias: PAYCENTER_ORDER_NOTIFY_URL)",
    )
    refund_callback_url: str = Field(
        validation_alias=AliasChoices("PAYCENTER_REFUND_CALLBACK_URL", "PAYCENTER_REFUND_NOTIFY_URL"),
        description="where channels send callbacks about refunds, without the channel id (alias: PAYCENTER_REFUND_NOTIFY_URL)",
    )
    notification_allowed_networks: str = Field(
        "", description="private networks that notifications may go to, comma separated CIDR"
    )
    database_pool: int = Field(8, ge=1, le=64, description="connections for each process")
    channel_timeout: float = Field(10.0, gt=0, le=60, description="seconds for one call of a channel")
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
    def production(self) -> bool:
        """Whether this is production mode."""
        return self.mode == "production"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` in two; ValueError otherwise."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)
