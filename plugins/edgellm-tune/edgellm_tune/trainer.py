"""A model that is being tuned, as the core's loop drives it (`edgellm.contract.tuner.Trainer`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgellm.contract.tuner import Arrays, Batch
from edgellm.errors import BackendError, BadArtifact
from edgellm.formats.gguf.decoder import read_decoder
from edgellm.formats.gguf.reader import GgufModel
from edgellm.types.tuning import TuneSettings
from edgellm_tune.adamw import AdamW
from edgellm_tune.adapters import LowRank
from edgellm_tune.base import CPU, Base
from edgellm_tune.decoder import Model, Tokens
from edgellm_tune.device import build_of, computing_on
from edgellm_tune.heap import give_back
from edgellm_tune.methods import Draw

_COUNT = "steps"


class TorchTrainer:
    """One model in one process."""

    def __init__(
        self,
        model: GgufModel,
        settings: TuneSettings,
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
    ) -> None:
        """
        Raises:
            BadArtifact, UnsupportedArtifact.
        """
        self.settings, self.device = settings, device
        torch.set_num_threads(settings.n_threads)
        config = read_decoder(model)
        draw = Draw(settings, config, dtype, device)
        quantized = settings.quantized and settings.method != "full"
        self.model = Model(Base(model, quantized=quantized, dtype=dtype, device=device), config, draw)
        self._shared = draw.shared
        self.trained = self._named("trained")
        if settings.method == "full":
            self.trained |= self._whole()
        ratio = settings.lora_plus_ratio if settings.method == "lora+" else 1.0
        rates = {name: ratio for name in self.trained if name.endswith(".lora_b")}
        self._optimizer = AdamW(self.trained, rates, settings.weight_decay)
        give_back()  # what matrices came through

    @property
    def build(self) -> str:
        return build_of(self.device)

    @property
    def n_trained(self) -> int:
        return sum(tensor.numel() for tensor in self.trained.values())

    def step(self, batches: Sequence[Batch], learning_rate: float) -> float:
        """As the contract says."""
        with computing_on(self.device):
            return self._step(batches, learning_rate)

    def _step(self, batches: Sequence[Batch], learning_rate: float) -> float:
        if self._optimizer.count == self.settings.delta_start:
            self._remember_start()
        parts = [tokens for tokens in map(self._tokens, batches) if len(tokens.targets)]
        n_supervised = sum(len(tokens.targets) for tokens in parts)
        if not parts:
            raise BackendError("no token of these rows is supervised, so there is nothing to learn from")
        checkpointing = self.settings.checkpointing
        losses = [self.model.backward(tokens, 1 / n_supervised, checkpointing=checkpointing) for tokens in parts]
        mean = sum(losses) / n_supervised
        norm = self._gradient_norm()
        if not (math.isfinite(mean) and math.isfinite(norm)):
            for tensor in self.trained.values():
                tensor.grad = None
            raise BackendError(
                f"the loss is {mean} and its gradient {norm} at step {self._optimizer.count + 1}",
                hint="use a lower learning rate",
            )
        most = self.settings.max_grad_norm
        self._optimizer.step(learning_rate, most / norm if 0 < most < norm else 1.0)
        give_back()  # activations and gradients
        return mean

    def loss(self, batch: Batch) -> float:
        """As the contract says."""
        with computing_on(self.device):
            return self.model.loss(self._tokens(batch))

    def next_token(self, tokens: Sequence[int]) -> int:
        """As the contract says."""
        ids = np.asarray(tokens, np.int32)[None]
        nobody = np.zeros(ids.shape, np.bool_)
        batch = Batch(ids, nobody, np.arange(ids.size, dtype=np.int32)[None], np.ones_like(ids))
        with computing_on(self.device):
            return self.model.next_token(self._tokens(batch))

    def state(self) -> Arrays:
        """Of each tensor itself, its moments as NAME:first and NAME:second, what is frozen; and how many steps. Nothing
        draws on a device, so it has no random state. Of another device than the processor they are copies."""
        return _arrays(self._stateful()) | {_COUNT: np.array([self._optimizer.count], np.int64)}

    def restore(self, state: Arrays) -> None:
        """As the contract says."""
        count = int(_array(state, _COUNT, (1,))[0])
        for linear in self.model.linears:
            if isinstance(linear.adapter, LowRank):
                linear.adapter.start = None
        if count > self.settings.delta_start:
            self._remember_start()
        with torch.no_grad():
            for name, tensor in self._stateful().items():  # one at a time is in memory
                tensor.copy_(torch.from_numpy(_array(state, name, tuple(tensor.shape))))
        self._optimizer.count = count

    def factors(self) -> Arrays:
        """As the contract says."""
        return _arrays(self.trained | self._named("frozen") | self._shared)

    def close(self) -> None:
        """The process ends soon; what is large is let go now."""
        self.trained = {}
        self.model = self._optimizer = None  # type: ignore[assignment]

    def _tokens(self, batch: Batch) -> Tokens:
        return tokens_of(batch, self.device)

    def _stateful(self) -> dict[str, Tensor]:
        tensors = self.trained | self._named("frozen")
        for kind, moments in (("first", self._optimizer.first), ("second", self._optimizer.second)):
            tensors |= {f"{name}:{kind}": moment for name, moment in moments.items()}
        return tensors

    def _named(self, kind: str) -> dict[str, Tensor]:
        """What adapters hold, by the tensor's name and its own."""
        tensors: dict[str, Tensor] = {}
        for linear in self.model.linears:
            own: Mapping[str, Tensor] = getattr(linear.adapter, kind)()
            tensors |= {f"{linear.matrix.name}.{name}".rstrip("."): tensor for name, tensor in own.items()}
        return tensors

    def _whole(self) -> dict[str, Tensor]:
        """What is no matrix of a layer: tables, norms and biases."""
        tables = {matrix.name: matrix for matrix in (self.model.embedding, self.model.head)}
        for matrix in tables.values():
            matrix.held = matrix.values().clone().requires_grad_()
        vectors = {name: vector.requires_grad_() for name, vector in self.model.vectors.items()}
        return {name: matrix.held for name, matrix in tables.items()} | vectors

    def _remember_start(self) -> None:
        """Of Delta-LoRA: from now on W moves, too."""
        for linear in self.model.linears:
            adapter = linear.adapter
            if isinstance(adapter, LowRank) and adapter.delta:
                adapter.start = adapter.a.detach().clone(), adapter.b.detach().clone()

    def _gradient_norm(self) -> float:
        squares = [tensor.grad.norm().square() for tensor in self.trained.values() if tensor.grad is not None]
        return float(torch.stack(squares).sum().sqrt())


def tokens_of(batch: Batch, device: torch.device = CPU) -> Tokens:
    """All rows in one line, without padding."""
    filled = batch.documents > 0
    # A row that goes on with the number of the row before is another document all the same.
    numbers = (batch.documents + np.arange(len(batch.documents))[:, None] * (batch.documents.max() + 1))[filled]
    ids, supervised = batch.tokens[filled], np.flatnonzero(batch.supervised[filled])
    ends = [*np.flatnonzero(np.diff(numbers)) + 1, len(numbers)]
    documents = tuple(zip([0, *map(int, ends[:-1])], map(int, ends), strict=True))

    def placed(numbers: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64)).to(device)

    return Tokens(
        ids=placed(ids),
        positions=placed(batch.positions[filled]),
        documents=documents,
        predicting=placed(supervised - 1),
        targets=placed(ids[supervised]),
    )


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _array(state: Arrays, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    array = state.get(name)
    if array is None or array.shape != shape:
        raise BadArtifact(f"the checkpoint has {array.shape if array is not None else 'no'} {name}, {shape} is needed")
    return np.asarray(array)
