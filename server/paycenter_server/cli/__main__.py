"""`python -m paycenter_server.cli`."""

from paycenter_server.cli import main

main(prog_name="paycenter")
