"""The one error of this package."""


class LocalError(Exception):
    """Something local cannot be started. The message is for a person and says what to do about it."""
