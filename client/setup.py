"""What pyproject.toml cannot say: the wheel holds the contract, which stands beside this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# In a source distribution the contract is in this folder.
PROTOS = next((folder for folder in (HERE / "protos", HERE.parent / "protos") if folder.is_dir()), HERE)


def copy_protos(target: Path) -> None:
    """Copy the contract to a folder, which is made anew."""
    shutil.rmtree(target, ignore_errors=True)
    for source in PROTOS.glob("**/*.proto"):
        place = target / source.relative_to(PROTOS)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)


class BuildPackages(build_py):
    """Copies `protos/` of the tree to `paycenter/protos`, for colleagues who generate stubs in another language."""

    def run(self) -> None:
        """Build the packages, then copy. An editable installation has the tree."""
        super().run()
        if self.editable_mode:
            return
        copy_protos(Path(self.build_lib) / "paycenter" / "protos")


class SourceDistribution(sdist):
    """Holds the contract too, so that a wheel can be built from it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """The files of the distribution, and `protos/`."""
        super().make_release_tree(base_dir, files)
        copy_protos(Path(base_dir) / "protos")


setup(cmdclass={"build_py": BuildPackages, "sdist": SourceDistribution})
