"""The gateway alone, measured: what it adds to an upstream that answers at once."""
