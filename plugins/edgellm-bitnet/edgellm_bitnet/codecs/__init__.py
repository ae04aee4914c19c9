"""Ternary tensors as files hold them, one module a format: bytes to `Ternary` and back, exactly."""
