"""The one error of this package, and what an error of the operating system says."""


class LocalError(Exception):
    """Something local cannot be started. The message is for a person and says what to do about it."""


def error_sentence(error: OSError) -> str:
    """An error of the operating system, such as a full disk, for a person; with its file if it has one."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}." if error.filename else f"{reason}."
