"""One encoder on onnxruntime: texts become vectors, or, for a cross-encoder, pairs become scores. In a worker only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgellm.contract.embedder import EmbeddingInfo, EmbedsOnly, Pair, check_sequences, unit
from edgellm.contract.engine import EngineInfo
from edgellm.errors import BackendUnavailable, BadArtifact, UnsupportedArtifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_onnx import session
from edgellm_onnx.convert_bert import graph_of
from edgellm_onnx.encoder_folder import read_folder
from edgellm_onnx.encoder_tokenizer import EncoderTokenizer
from edgellm_onnx.options import Options
from edgellm_onnx.pooling import pool
from edgellm_onnx.providers import CPU, choose

Floats = npt.NDArray[np.float32]

log = logging.getLogger("edgellm.onnx")

IDS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
# Outputs by what they hold, the one that needs least of us first.
POOLED, STATES, SCORES = ("sentence_embedding",), ("token_embeddings", "last_hidden_state"), ("logits",)
INT_TYPES: dict[str, type[np.signedinteger[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
MAX_WIDTH = 16_384  # of a vector; models in use have 8,192 at most
FLOAT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")


class EncoderEngine(EmbedsOnly):
    """A loaded encoder. It holds nothing between calls but the session."""

    gives = "vectors or scores"

    def __init__(self, plan: LaunchPlan, graph: Path) -> None:
        """
        Args:
            graph: the ONNX graph, checked (`OnnxModel.folder`); or safetensors, or their folder, that one is built of.
        """
        self._graph = graph
        self._folder = folder = read_folder(graph if graph.is_dir() else graph.parent)
        self.tokenizer = EncoderTokenizer(folder)
        if 0 < folder.n_vocab < self.tokenizer.n_tokens:
            raise BadArtifact(
                f"{folder.path}: tokenizer.json has {self.tokenizer.n_tokens} tokens, config.json {folder.n_vocab}",
                hint="they are not of one model: fetch the folder again",
            )
        self._session: onnxruntime.InferenceSession | None
        self._session, self._about = open_session(graph, plan)
        self._inputs = self._read_inputs(graph)
        self._output, self._rank = self._read_output(graph)
        self.info = self._describe(plan.settings, graph)
        for about, note in self.info.details.items():
            if about in folder.assumed and note == folder.notes[about]:
                log.warning("%s: %s is %s", graph, about, note)

    def embed(self, sequences: Sequence[Sequence[int]]) -> Floats:
        """float32 (len(sequences), n_embd), pooled and normalized as the folder says. One padded batch.

        Raises:
            CacheFull: a sequence longer than the context. ValueError: an empty one, or an id that there is not.
        """
        check_sequences(sequences, self.info.vocab_size, self.info.n_ctx)
        output, lengths = self._run(sequences, None)
        rows = output if self._rank == len(("texts", "width")) else pool(output, lengths, self._folder.pooling)
        return unit(rows) if self._folder.normalized else rows

    def pair(self, query: str, document: str) -> Pair:
        """See `edgellm.contract.embedder.Reranker.pair`."""
        return self.tokenizer.pair(query, document)

    def rerank(self, pairs: Sequence[Pair]) -> Floats:
        """float32 (len(pairs),), on the scale that the folder says. Raises as `embed`."""
        check_sequences([pair.tokens for pair in pairs], self.info.vocab_size, self.info.n_ctx)
        output, _ = self._run([pair.tokens for pair in pairs], [pair.n_first for pair in pairs])
        scores = output[:, 0]
        return np.asarray(1 / (1 + np.exp(-scores)) if self._folder.sigmoid else scores, np.float32)

    def close(self) -> None:
        """Free the session. Vectors handed out stay."""
        self._session = None

    def _run(
        self, sequences: Sequence[Sequence[int]], firsts: Sequence[int] | None
    ) -> tuple[Floats, npt.NDArray[np.int64]]:
        """The graph's output as float32, and the sequences' lengths. `firsts`: tokens of segment 0; None = all."""
        assert self._session is not None
        lengths = np.asarray([len(tokens) for tokens in sequences], np.int64)
        shape = (len(sequences), int(lengths.max()))
        place = np.arange(shape[1])
        ids = np.full(shape, self._folder.pad_id, self._inputs[IDS])
        for row, tokens in zip(ids, sequences, strict=True):
            row[: len(tokens)] = tokens
        feed = {IDS: ids}
        inside = place < lengths[:, None]
        if MASK in self._inputs:
            feed[MASK] = inside.astype(self._inputs[MASK])
        if SEGMENTS in self._inputs:
            kind = self._inputs[SEGMENTS]
            second = np.zeros(shape, bool) if firsts is None else inside & (place >= np.asarray(firsts)[:, None])
            feed[SEGMENTS] = second.astype(kind)
        try:
            (output,) = self._session.run([self._output], feed)
            return np.asarray(output, np.float32), lengths
        except Exception as error:
            if not session.ran_out(error):
                raise
            raise BackendUnavailable(
                f"{self._graph} takes more memory for a batch of {shape[0]} texts and {shape[1]} tokens than it may",
                hint="send shorter texts; a graph of its size should not take as much, and may mean it",
            ) from error

    def _read_inputs(self, graph: Path) -> dict[str, type[np.signedinteger[Any]]]:
        assert self._session is not None
        input_types: dict[str, type[np.signedinteger[Any]]] = {}
        for value in self._session.get_inputs():
            if value.name not in (IDS, MASK, SEGMENTS) or value.type not in INT_TYPES:
                raise UnsupportedArtifact(
                    f"{graph} wants an input {value.name} of {value.type}", hint=f"known: {IDS}, {MASK}, {SEGMENTS}"
                )
            input_types[value.name] = INT_TYPES[value.type]
        if IDS not in input_types:
            raise UnsupportedArtifact(f"{graph} has no input {IDS}", hint="is it a model of texts?")
        if MASK not in input_types:
            raise UnsupportedArtifact(
                f"{graph} has no input {MASK}: texts of a batch would see each other's padding",
                hint="export it with an attention mask",
            )
        return input_types

    def _read_output(self, graph: Path) -> tuple[str, int]:
        """Name and rank of the output that is used."""
        assert self._session is not None
        outputs = {value.name: value for value in self._session.get_outputs() if value.type in FLOAT_TYPES}
        for name, rank in (*((n, 2) for n in POOLED), *((n, 3) for n in STATES), *((n, 2) for n in SCORES)):
            if name not in outputs:
                continue
            shape = outputs[name].shape
            if len(shape) != rank:
                raise UnsupportedArtifact(f"{graph}: output {name} has {len(shape)} dimensions, {rank} are needed")
            if name in SCORES and shape[-1] != 1:
                raise UnsupportedArtifact(
                    f"{graph}: {shape[-1]} scores a text: a classifier, no reranker", hint="a reranker gives one"
                )
            if self._folder.other_modules and name in STATES:
                raise UnsupportedArtifact(
                    f"{graph}: modules.json asks for {', '.join(self._folder.other_modules)[:80]} after the graph",
                    hint=f"export the model with an output {POOLED[0]}",
                )
            return name, rank
        raise UnsupportedArtifact(
            f"{graph} has the outputs {', '.join(outputs) or 'of no numbers'}",
            hint=f"known: {', '.join((*POOLED, *STATES, *SCORES))}",
        )

    def _width(self, graph: Path) -> int:
        """Numbers of a vector, by trying: a graph may name its dimensions only."""
        try:
            output, lengths = self._run([self.tokenizer.encode("a", add_special=True, parse_special=False)], None)
        except BackendUnavailable as error:
            raise UnsupportedArtifact(
                f"{graph} takes far more memory for one word than a graph of its size should",
                hint="do not open this model: it may mean it; or the machine has no memory left",
            ) from error
        except Exception as error:
            raise BadArtifact(
                f"{graph} fails on the first text: {str(error)[:200]}",
                hint="tokenizer and graph may not be of one model: fetch the folder again",
            ) from error
        rows = output if self._rank == len(("texts", "width")) else pool(output, lengths, self._folder.pooling)
        if not np.isfinite(rows).all():
            raise BadArtifact(f"{graph} gives no numbers for the first text", hint="fetch it again")
        width = int(rows.shape[1])
        if width > MAX_WIDTH:
            raise UnsupportedArtifact(
                f"{graph} makes vectors of {width} numbers, and {MAX_WIDTH} are supported",
                hint="do not open this model: none in use has so many",
            )
        return width

    def _describe(self, settings: Settings, graph: Path) -> EngineInfo:
        folder, reranks, width = self._folder, self._output in SCORES, self._width(graph)
        n_ctx = min(settings.n_ctx, folder.max_tokens or settings.n_ctx)
        notes = dict(folder.notes)
        for name in ("pooling", "normalized") if reranks else ("score",):
            notes.pop(name)
        if self._output in POOLED:
            notes["pooling"] = f"in the graph, output {self._output}"
        if folder.prompt:
            notes["prompt"] = f"{folder.prompt!r} stands before every text, from config_sentence_transformers.json"
        pooling = "graph" if self._output in POOLED else "+".join(folder.pooling)
        return EngineInfo(
            n_slots=settings.n_slots, n_ctx=n_ctx, max_batch_tokens=max(settings.n_batch, 1),
            max_logits=settings.n_slots, vocab_size=self.tokenizer.n_tokens, eos_ids=frozenset(),
            n_embd=0 if reranks else width, rewind_tokens=0,
            capabilities=frozenset({"rerank"} if reranks else {"embed"}), generates=False,
            embedding=None if reranks else EmbeddingInfo(pooling, folder.normalized, folder.dimensions),
            details={
                "library": f"onnxruntime {onnxruntime.__version__}", "output": self._output, **self._about, **notes,
            },
        )  # fmt: skip


def open_session(graph: Path, plan: LaunchPlan) -> tuple[onnxruntime.InferenceSession, dict[str, str]]:
    """A session as the decoders have it, and what is to be said of it. A folder of safetensors becomes a graph first.

    Raises:
        BadArtifact, UnsupportedArtifact: onnxruntime refuses the graph. BackendUnavailable: no memory.
    """
    settings = plan.settings
    options = Options.parse(settings.options)
    if plan.artifact.format != "safetensors":
        choice = choose(options.provider, onnxruntime.get_available_providers(), settings.devices)
        opened = session.open_session(graph, settings, options, choice)
        return opened.session, {"provider": opened.reason}
    built = graph_of(graph)
    with session.refusing(f"{graph} cannot be opened"):
        encoder = onnxruntime.InferenceSession(built, session.session_options(settings, options), providers=[CPU])
        encoder.disable_fallback()
        return encoder, {"provider": "the CPU: the graph is built of its own operators"}
