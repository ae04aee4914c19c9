"""An EdgeLLM plugin to learn from."""
