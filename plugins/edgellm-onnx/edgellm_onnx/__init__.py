"""EdgeLLM plugin for ONNX models: an engine on onnxruntime, and a converter from GGUF."""

import os

# Since 1.29 onnxruntime would tell its makers of each process and model, by an identifier that it keeps on the disk. It
# looks once, when it is imported, and workers inherit this. Who set it, has it as it was set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
