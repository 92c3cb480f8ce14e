"""How well, how fast and how cheaply prompts are routed, beside simple baselines."""
