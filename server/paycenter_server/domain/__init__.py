"""The domain: states, money, ids, errors. Standard library only; it does no I/O and reads no clock and no random source."""
