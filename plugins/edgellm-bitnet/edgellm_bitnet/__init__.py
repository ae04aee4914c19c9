"""EdgeLLM plugin for ternary models: their file formats, and an engine of its own."""
