"""The door: one gRPC server in front of the pool."""
