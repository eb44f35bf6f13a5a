"""The channels: codecs without I/O, one folder per family, and the transport that sends their requests."""
