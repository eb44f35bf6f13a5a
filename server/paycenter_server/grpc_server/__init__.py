"""Transport 1: the async gRPC server."""
