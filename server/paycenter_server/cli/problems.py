"""What an operator can correct, in one sentence: wrong settings, a database that is away, a full disk, a missing permission."""

from __future__ import annotations

from paycenter_server.channels.crypto import CryptoError
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.settings import SettingsError
from paycenter_server.storage.problems import database_problem


def explain(error: BaseException) -> str | None:
    """The sentence; None for an error that is a fault of this program, whose traceback is needed."""
    if isinstance(error, PayCenterError):
        return error.message
    if isinstance(error, SettingsError):
        return str(error)
    if isinstance(error, CryptoError):
        return f"A stored secret cannot be read: {error}."
    problem = database_problem(error)
    if problem is not None:
        return problem
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}."
    if isinstance(error, OSError):
        return f"The operating system reports: {error.strerror or error}."
    return None
