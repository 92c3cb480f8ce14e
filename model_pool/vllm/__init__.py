"""The engine of production: everything that knows vLLM."""
