"""EdgeLLM on several machines: each answers as a replica of one Ray Serve deployment."""
