"""Builds one backend of ggml for GPUs as a library of its own: what is missing, the sources, the compiling."""
