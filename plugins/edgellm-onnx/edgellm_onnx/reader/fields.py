"""Field numbers of the messages of an ONNX file, as onnx.proto3 of the ONNX project gives them; those that are read.

Plain numbers in classes: a graph has millions of fields, and an enum's members are slow to look up.
"""

from __future__ import annotations


class Model:
    IR_VERSION = 1
    PRODUCER_NAME = 2
    GRAPH = 7
    OPSET_IMPORT = 8
    FUNCTIONS = 25


class Opset:
    DOMAIN, VERSION = 1, 2


class Function:
    NAME = 1
    NODE = 7
    DOMAIN = 10
    ATTRIBUTE_PROTO = 11  # attributes with what they are where a caller leaves them out


class Graph:
    NODE = 1
    INITIALIZER = 5
    INPUT = 11
    OUTPUT = 12
    SPARSE_INITIALIZER = 15


class Node:
    INPUT = 1
    OUTPUT = 2
    OP_TYPE = 4
    ATTRIBUTE = 5
    DOMAIN = 7


class Attribute:
    NAME = 1
    INT = 3
    TENSOR = 5
    GRAPH = 6
    TENSORS = 10
    GRAPHS = 11
    SPARSE_TENSOR = 22
    SPARSE_TENSORS = 23


class Value:
    """ValueInfoProto."""

    NAME, TYPE = 1, 2


class Type:
    TENSOR = 1  # sequences, maps and optional values have other numbers


class TensorType:
    ELEM_TYPE, SHAPE = 1, 2


class Dimension:
    VALUE, PARAM = 1, 2


class Tensor:
    DIMS = 1
    DATA_TYPE = 2
    SEGMENT = 3
    FLOAT_DATA = 4
    INT32_DATA = 5
    STRING_DATA = 6
    INT64_DATA = 7
    NAME = 8
    RAW_DATA = 9
    DOUBLE_DATA = 10
    UINT64_DATA = 11
    EXTERNAL_DATA = 13
    DATA_LOCATION = 14


class Entry:
    """StringStringEntryProto."""

    KEY, VALUE = 1, 2


EXTERNAL = 1  # value of Tensor.DATA_LOCATION: the bytes are in another file
VALUES = frozenset({
    Tensor.FLOAT_DATA, Tensor.INT32_DATA, Tensor.STRING_DATA, Tensor.INT64_DATA, Tensor.RAW_DATA, Tensor.DOUBLE_DATA,
    Tensor.UINT64_DATA,
})  # fmt: skip
