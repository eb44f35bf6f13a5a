"""The folder of the published vectors beside the checkout, if it exists."""

from __future__ import annotations

from pathlib import Path

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
