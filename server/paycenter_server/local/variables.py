"""Environment variables whose names begin with PAYCENTER_."""

import os


def is_setting(name: str) -> bool:
    """Whether the name is meant as one of PayCenter's settings."""
    return name.upper().startswith("PAYCENTER_")


def unknown_settings() -> list[tuple[str, str]]:
    """Those of this process that are no setting, each with the nearest setting."""
    names = [name for name in os.environ if is_setting(name)]
    if not names:
        return []
    # Imported only here, because it takes as long as the rest of the start of the supervisor.
    from paycenter_server.settings import unknown_variables

    return unknown_variables(names)
