"""The channels: sans-IO codecs, one folder per family, and the one transport that carries their requests."""
