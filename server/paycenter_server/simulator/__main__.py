"""`python -m paycenter_server.simulator`: the same as `paycenter simulator`."""

from __future__ import annotations

from paycenter_server.simulator.cli import main

main()
