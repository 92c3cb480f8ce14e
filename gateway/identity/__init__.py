"""Who calls, proven by a key, a token or a certificate, and what it may do."""
