"""A device that torch has no code for here, as an oracle: shapes and places are followed, nothing is computed.

torch's own FakeTensorMode carries the device of each tensor. Its CPU builds refuse "cuda" there, but "lazy", which is
no processor either, is followed in every build. Stricter than any GPU: that an operation mixes devices is an error
also where torch would copy silently, as for indices.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OTHER = torch.device("lazy", 0)
_COPIES = {"aten::_to_copy", "aten::copy_"}


class MixedDevices(Exception):
    """One operation got tensors of two devices."""


class _Checked(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        places = {
            leaf.device.type
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor) and (leaf.dim() or leaf.device.type != "cpu")  # a number goes anywhere
        }
        if len(places) > 1 and func._schema.name not in _COPIES:
            raise MixedDevices(f"{func} of {sorted(places)}")
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1  # nothing is computed, so any number is as good
        return func(*args, **(kwargs or {}))


def _numpy(tensor):
    if tensor.device.type != "cpu":
        raise MixedDevices(f"numpy of {tensor.device}")
    return np.ones(tuple(tensor.shape), np.float32)


@contextlib.contextmanager
def followed(monkeypatch):
    """While it lasts, no tensor has values."""
    with monkeypatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True), _Checked():
        patch.setattr(torch.Tensor, "numpy", _numpy)
        yield
