"""Images and artifacts for containers."""
