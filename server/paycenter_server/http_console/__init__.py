"""The management console: pages for operators, over the same services as the gRPC server."""
