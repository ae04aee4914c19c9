"""The conformance test of a backend, for plugin authors: subclass `BackendContract`."""
