"""What every engine does, on vLLM."""

from engine.test_engine_contract import *  # noqa: F403
