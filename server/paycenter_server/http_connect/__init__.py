"""The Connect bridge: the gRPC services over HTTP and JSON."""
