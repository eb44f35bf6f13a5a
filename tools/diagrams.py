"""Write the state diagrams of ARCHITECTURE.md from the tables in domain/states.py; `--check` only compares."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from paycenter_server.domain.states import MACHINES

DOCUMENT = Path(__file__).resolve().parent.parent / "ARCHITECTURE.md"
_BLOCK = re.compile(r"<!-- states:begin -->.*?<!-- states:end -->", re.DOTALL)


def render() -> str:
    """The Mermaid diagrams, one per state machine."""
    parts = ["<!-- states:begin -->", "Generated from `domain/states.py` by `make diagrams`.", ""]
    for name, table in MACHINES.items():
        parts += [f"`{name}`", "", "```mermaid", "stateDiagram-v2"]
        for (state, event), target in table.items():
            parts.append(f"    {'[*]' if state is None else state.value} --> {target.value}: {event.value}")
        parts += ["```", ""]
    return "\n".join([*parts, "<!-- states:end -->"])


def main() -> int:
    """Write or compare. 0 if the document matches."""
    text = DOCUMENT.read_text()
    wanted = _BLOCK.sub(lambda _: render(), text)
    if wanted == text and _BLOCK.search(text):
        print("state diagrams match the tables")
        return 0
    if "--check" in sys.argv:
        print("the state diagrams in ARCHITECTURE.md differ from the tables; run make diagrams")
        return 1
    DOCUMENT.write_text(wanted)
    print("state diagrams written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
