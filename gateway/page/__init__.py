"""The page at the metrics port: the fleet, its routing, latency and money, for a browser."""
