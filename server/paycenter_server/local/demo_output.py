"""How the demonstration is shown: a timeline for people, or one JSON object a step for programs."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, field
from typing import Any, Protocol

QR_BORDER = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One step that succeeded or failed. `text`: one line for people; `detail`: the same and more for programs."""

    channel: str
    name: str
    ok: bool
    ms: float
    text: str
    detail: dict[str, Any] = field(default_factory=dict)
    qr: str = ""


class Output(Protocol):
    """Where the steps go."""

    def begin(self, channel: str) -> None:
        """A channel's payment begins."""

    def step(self, step: Step) -> None:
        """A step is done."""

    def end(self, failed: list[Step], ms: float) -> None:
        """All is done."""


class JsonOutput:
    """One JSON object a line on stdout: step, channel, ok, ms, detail."""

    def begin(self, channel: str) -> None:
        """Says nothing."""

    def step(self, step: Step) -> None:
        """A line."""
        detail = {"text": step.text, **step.detail}
        line = {"step": step.name, "channel": step.channel, "ok": step.ok, "ms": round(step.ms, 1), "detail": detail}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def end(self, failed: list[Step], ms: float) -> None:
        """Failures on stderr."""
        del ms
        for step in failed:
            sys.stderr.write(f"Failed: {step.channel}, {step.name}: {step.text}\n")


class HumanOutput:
    """A timeline on the terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        # Redirected to a file or an old terminal, the output may not take block characters.
        self._unicode = self._console.encoding.lower().startswith("utf")

    def begin(self, channel: str) -> None:
        """A heading."""
        from rich.text import Text

        self._console.print()
        self._console.print(Text(channel, "bold cyan"))

    def step(self, step: Step) -> None:
        """A line, and the QR code if there is one."""
        from rich.text import Text

        mark = ("✓" if step.ok else "✗") if self._unicode else ("ok" if step.ok else "FAILED")
        line = Text.assemble(
            (f"  {mark} ", "green" if step.ok else "bold red"),
            f"{step.name.replace('_', ' '):<16}",
            (f"{step.ms:>7.0f} ms  ", "dim"),
            step.text if self._unicode else step.text.encode("ascii", "replace").decode(),
        )
        self._console.print(line, soft_wrap=True)
        if step.qr and self._unicode:
            self._print_qr(step.qr)

    def end(self, failed: list[Step], ms: float) -> None:
        """The result."""
        from rich.text import Text

        self._console.print()
        if not failed:
            self._console.print(Text(f"Every step succeeded, in {ms / 1000:.1f} s.", "bold green"))
        for step in failed:
            self._console.print(Text(f"Failed: {step.channel}, {step.name}: {step.text}", "bold red"), soft_wrap=True)

    def _print_qr(self, content: str) -> None:
        from rich.text import Text

        for line in qr_lines(content):
            # White on black whatever the terminal's colours are: not every scanner reads inverted codes.
            self._console.print(Text.assemble("      ", (line, "white on black")), soft_wrap=True)


def qr_lines(content: str) -> list[str]:
    """A QR code as lines of half blocks, two modules a character, light modules drawn."""
    import segno

    drawn = io.StringIO()
    segno.make_qr(content, error="l").terminal(out=drawn, border=QR_BORDER, compact=True)
    return drawn.getvalue().rstrip("\n").split("\n")
