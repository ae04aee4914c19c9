"""What edgellm-onnx registers. Light: onnxruntime and onnx are imported where a model is opened or converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellm.hookspecs import hookimpl
from edgellm_onnx.bert_backend import BertBackend

if TYPE_CHECKING:
    from edgellm.backend import Backend
    from edgellm.converter import Conversion, Converted, Converter, Progress


def _from_gguf(conversion: Conversion, progress: Progress) -> Converted:
    from edgellm_onnx.convert import convert

    return convert(conversion, progress)


def _from_bert(conversion: Conversion, progress: Progress) -> Converted:
    from edgellm_onnx.convert_bert import convert

    return convert(conversion, progress)


@hookimpl
def register_converters(register: Callable[[str, str, Converter], None]) -> None:
    register("gguf", "onnx", _from_gguf)
    register("safetensors", "onnx", _from_bert)


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    register(BertBackend())
