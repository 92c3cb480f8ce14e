"""make bench-deltas: how small deltas are at which quality, and how fast they decode."""
