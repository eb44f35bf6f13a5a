"""The files that belong to the server and are not Python modules of it: the migrations and the contract.

In a wheel they are in the package; in a checkout they are at the top of the tree, where `setup.py` takes them from.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def migrations_folder() -> Path:
    """The folder of Alembic's env.py. FileNotFoundError if the installation lacks it."""
    return _folder("migrations", "env.py")


def protos_folder() -> Path:
    """The folder of the contract: `paycenter/v1/*.proto` and buf.yaml. FileNotFoundError if the installation lacks it."""
    return _folder("protos", "paycenter")


def _folder(name: str, content: str) -> Path:
    for folder in (_PACKAGE / name, _PACKAGE.parent.parent / name):
        if (folder / content).exists():
            return folder
    raise FileNotFoundError(f"This installation of PayCenter has no folder {name!r}. Install the package paycenter-server again.")
