"""The documents in two languages have the same parts, and what they show exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 1_500_000
_LINK = r"\]\(([^)]+)\)"
_ENDINGS = r"(\.zh-CN\.md|\.zh\.webp|\.en\.webp|\.md)$"


def parts(text: str) -> dict[str, list[str]]:
    """What does not depend on the language: levels of headings, first cells with code, blocks of commands, settings, links."""
    return {
        "headings": re.findall(r"^(#+) ", text, re.MULTILINE),
        "tables": [str(line.count("|")) for line in text.splitlines() if line.startswith("|")],
        "settings": sorted(re.findall(r"PAYCENTER_[A-Z_]+", text)),
        "commands": sorted(set(re.findall(r"(?:`|^    )(make [a-z]+)", text, re.MULTILINE))),
        "links": sorted(re.sub(_ENDINGS, "", link.partition("#")[0]) for link in re.findall(_LINK, text)),
    }  # fmt: skip


@pytest.mark.parametrize(("english", "chinese"), [("README.md", "README.zh-CN.md"), ("docs/tutorial.md", "docs/tutorial.zh-CN.md")])
def test_both_languages_have_the_same_parts(english: str, chinese: str) -> None:
    one, other = ((ROOT / name).read_text() for name in (english, chinese))
    for name, found in parts(one).items():
        assert parts(other)[name] == found, name


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "docs/tutorial.md", "docs/tutorial.zh-CN.md", "docs/connect.md"])
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(_LINK, (ROOT / name).read_text()):
        if not link.startswith("http"):
            assert (ROOT / name).parent.joinpath(link.partition("#")[0]).exists(), link


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\| (\S+) \| \[([^\n]+)\]\((\S+)\) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    files = {path.name: path.read_text() for path in folder.glob("20*.md")}
    assert {name for _, _, name in listed} == files.keys()
    for date, title, name in listed:
        assert name.startswith(date), name
        assert files[name].startswith(f"# {title}\n"), name
        for part in ("Context", "Alternatives", "Decision", "Consequences"):
            assert f"**{part}.**" in files[name], (name, part)


def test_the_pictures_are_small_and_all_shown() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert sum(picture.stat().st_size for picture in pictures) <= MOST_BYTES
    shown = "".join((ROOT / "docs" / name).read_text() for name in ("tutorial.md", "tutorial.zh-CN.md"))
    assert all(f"images/{picture.name}" in shown for picture in pictures)
