"""What pyproject.toml cannot say: the version, the client of that version, and the folders of the wheel that stand at the top."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Files of the top of the tree and of their place in the wheel: paycenter_server/migrations and paycenter_server/protos.
CARRIED = ("migrations/*.py", "migrations/*.mako", "migrations/versions/*.py", "protos/buf.yaml", "protos/**/*.proto")


class BuildPackages(build_py):
    """Copies the migrations and the contract into the package. An editable installation finds them in the tree."""

    def run(self) -> None:
        """Build the packages, then copy."""
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib) / "paycenter_server"
        # Files of an earlier build may have been deleted from the tree since.
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for pattern in CARRIED:
            for source in ROOT.glob(pattern):
                target = package / source.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


version: str = runpy.run_path(str(ROOT / "client" / "paycenter" / "version.py"))["VERSION"]
setup(
    version=version,
    # The other dependencies are in server/requirements.txt.
    install_requires=[f"paycenter-client=={version}", *(ROOT / "server" / "requirements.txt").read_text().splitlines()],
    cmdclass={"build_py": BuildPackages},
)
