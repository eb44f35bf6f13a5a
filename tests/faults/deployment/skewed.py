"""`skewed.py SECONDS COMMAND…`: the command line of PayCenter on a machine whose clock is wrong by so many seconds."""

from __future__ import annotations

import sys
import time

import time_machine

if __name__ == "__main__":
    seconds, sys.argv = float(sys.argv[1]), ["paycenter", *sys.argv[2:]]
    from paycenter_server.cli import main

    with time_machine.travel(time.time() + seconds, tick=True):
        main()
