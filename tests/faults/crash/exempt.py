"""Awaits of services/ that no operation of the crash matrix is killed at, by module or by module and function, with the reason."""

from __future__ import annotations

_READS = "it reads"
_ADMINISTRATION = "administration of configuration, in one transaction"

EXEMPT: dict[str, str] = {}
