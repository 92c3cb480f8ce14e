"""Which model answers a prompt well enough, and for how much."""
