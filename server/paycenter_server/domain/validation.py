"""Rules for plain values. A check collects all violations instead of stopping at the first."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from urllib.parse import urlsplit

from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.money import CURRENCIES, MAX_AMOUNT

_APP_KEY = re.compile(r"[a-z0-9_-]{1,64}")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
MAX_EXPIRY = timedelta(days=30)


@lru_cache(maxsize=1024)  # an app uses the same few again and again
def _is_absolute(url: str) -> bool:
    """Whether it is an absolute http or https URL without credentials."""
    if " " in url or not url.isprintable():  # every other white space is not printable
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False


class Check:
    """Collects violations. `done` raises one error that names all of them."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def fail(self, field: str, description: str) -> None:
        """Add a violation."""
        self.violations.append(Violation(field, description))

    def done(self) -> None:
        """Raise INVALID_FIELD if there are violations."""
        if self.violations:
            raise invalid(self.violations)

    def text(self, field: str, value: str, maximum: int, *, minimum: int = 0) -> None:
        """Check a text: minimum to maximum characters (not bytes), no control characters, no unpaired surrogates."""
        if len(value) < minimum:
            self.fail(field, "must not be empty" if minimum == 1 else f"needs at least {minimum} characters")
        elif len(value) > maximum:
            self.fail(field, f"has {len(value)} characters; the most is {maximum}")
        elif not value.isprintable() and any(
            ord(character) < 32 or ord(character) == 127 or 0xD800 <= ord(character) <= 0xDFFF for character in value
        ):
            self.fail(field, "must not hold control characters")

    def texts(self, of: object, rules: Iterable[tuple[str, int, int]]) -> None:
        """Check attributes as `text`: the name of each, its least and its largest number of characters."""
        for field, minimum, maximum in rules:
            value = getattr(of, field)
            if not (minimum <= len(value) <= maximum and value.isprintable()):
                self.text(field, value, maximum, minimum=minimum)

    def amount(self, field: str, value: int) -> None:
        """Check an amount in minor units: greater than 0, at most 100,000,000 yuan."""
        if not 0 < value <= MAX_AMOUNT:
            self.fail(field, f"must be from 1 to {MAX_AMOUNT} minor units")

    def currency(self, field: str, value: str) -> None:
        """Check that the channels accept the currency."""
        if value not in CURRENCIES:
            self.fail(field, f"must be one of {', '.join(sorted(CURRENCIES))}")

    def ip(self, field: str, value: str) -> None:
        """Check an IPv4 or IPv6 address. A scope id (fe80::1%eth0) is refused, because other machines cannot interpret it."""
        if _IPV4.fullmatch(value):
            return  # most are; the parser below takes ten times as long
        try:
            scoped = getattr(ipaddress.ip_address(value), "scope_id", None) is not None
        except ValueError:
            self.fail(field, "must be an IP address, v4 or v6")
        else:
            if scoped:
                self.fail(field, "must be an IP address without a scope id (the part behind %)")

    def future(self, field: str, value: datetime, now: datetime) -> None:
        """Check a time: in the future, at most 30 days ahead."""
        if value <= now:
            self.fail(field, "must be in the future")
        elif value > now + MAX_EXPIRY:
            self.fail(field, f"must be within {MAX_EXPIRY.days} days")

    def url(self, field: str, value: str, *, required: bool = False, maximum: int = 1024) -> None:
        """Check an absolute http or https URL without credentials."""
        if not value:
            if required:
                self.fail(field, "must be set")
            return
        if len(value) > maximum:
            self.fail(field, f"has {len(value)} characters; the most is {maximum}")
            return
        if not _is_absolute(value):
            self.fail(field, "must be an absolute http or https URL without credentials")

    def app_key(self, field: str, value: str) -> None:
        """Check an app key: 1 to 64 of a-z, 0-9, `_` and `-`."""
        if not _APP_KEY.fullmatch(value):
            self.fail(field, "must be 1 to 64 characters of a-z, 0-9, _ and -")

    def ppm(self, field: str, value: int) -> None:
        """Check a rate in millionths: 0 to 1,000,000."""
        if not 0 <= value <= 1_000_000:
            self.fail(field, "must be from 0 to 1000000 (millionths of the amount)")
