"""EdgeLLM tuner on torch."""
