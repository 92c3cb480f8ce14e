"""Which task a prompt belongs to, learned from labelled prompts."""
