"""The pure heart: states, money, numbers, errors. Standard library only; no I/O, no clock, no randomness of its own."""
