"""EdgeLLM backend for GGUF files."""
