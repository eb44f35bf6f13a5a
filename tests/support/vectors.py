"""Where the published vectors are, if they are: beside the checkout."""

from __future__ import annotations

from pathlib import Path

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
