"""What edgellm-onnx registers. Light: onnxruntime and onnx are imported where a model is opened or converted."""

from __future__ import annotations
