"""The limit of open files of this process, which its connections count against."""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger(__name__)
UNLIMITED = 1 << 20
"""What is taken for no limit."""


def descriptor_limit() -> int:
    """How many files this process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one where that is allowed; the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            log.warning("descriptor_limit_not_raised", soft=soft, hard=hard, why=str(error))
    return descriptor_limit()
