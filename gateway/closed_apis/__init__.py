"""Models behind other people's HTTP: two protocols, redaction, retries, bills within a budget."""
