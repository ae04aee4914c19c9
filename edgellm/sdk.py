"""The one object an app needs."""


class EdgeLLM: ...
