"""EdgeLLM plugin for ONNX models: an engine on onnxruntime, and a converter from GGUF."""
