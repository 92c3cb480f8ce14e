"""Measured on a real vLLM: `make bench-pool`. Nothing that serves imports this."""
