"""One decoder on onnxruntime: which slots run together, how many tokens each holds, and what a failed step loses.

Knows nothing of text beyond the tokenizer it carries, and nothing of sampling. Imported in a worker only.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnxruntime

from edgellm.contract.engine import EngineInfo, Logits, SlotInput, check_batch
from edgellm.errors import StepFailed, UnsupportedArtifact, option
from edgellm.formats.tokenizer.tokenizer import FileTokenizer
from edgellm.types.plan import Settings
from edgellm_onnx.binding import Binding
from edgellm_onnx.concat_kv import BoundGraph, ConcatKvDecoder
from edgellm_onnx.inplace_kv import InPlaceKvDecoder
from edgellm_onnx.logits import LogitRows
from edgellm_onnx.model import OnnxModel, decoder
from edgellm_onnx.options import Options
from edgellm_onnx.providers import choose
from edgellm_onnx.session import Opened, open_session


class DecoderEngine:
    """A loaded model and its cache."""

    def __init__(self, model: OnnxModel, tokenizer: FileTokenizer, eos_ids: frozenset[int], settings: Settings,
                 options: Options) -> None:  # fmt: skip
        signature = decoder(model)
        if signature.rope_rows and settings.n_ctx > signature.rope_rows:
            raise UnsupportedArtifact(
                f"{model.graph.where} has angles for {signature.rope_rows} positions, {settings.n_ctx} are asked for",
                hint=f"{option('ctx', signature.rope_rows)} is the most",
            )
        choice = choose(options.provider, onnxruntime.get_available_providers(), settings.devices)
        opened = open_session(model.folder.graph, settings, options, choice)
        gives_all = not signature.num_logits
        self._rows = LogitRows(signature.vocab, signature.logits_type, settings.n_slots, settings.n_batch, gives_all)
        self._decoder: InPlaceKvDecoder | ConcatKvDecoder | None = self._new_decoder(model, opened, settings, options)
        self._n_past = [0] * settings.n_slots
        self.tokenizer = tokenizer
        self.info = self._describe(model, opened, eos_ids, settings)

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        """See `edgellm.contract.engine.Engine.step`."""
        check_batch(batch, self.info, self._n_past)
        decoder = self._decoder
        assert decoder is not None
        starts: list[int] = []
        try:
            if len(batch) == 1 or not decoder.batches:
                at = 0
                for entry in batch:
                    decoder.append(entry.slot, entry.n_past, entry.tokens, entry.n_logits, at)
                    starts.append(at)
                    at += entry.n_logits
            else:
                starts = self._side_by_side(batch)
        except Exception as error:
            raise self._lost(batch, error) from error
        for entry in batch:
            self._n_past[entry.slot] = entry.n_past + len(entry.tokens)
        view = self._rows.view
        return [view(at, entry.n_logits) for at, entry in zip(starts, batch, strict=True) if entry.n_logits]

    def truncate(self, slot: int, n_tokens: int) -> int:
        """See `Engine.truncate`. Any length can be kept."""
        held = self._n_past[slot]
        kept = min(n_tokens, held)
        if kept < held and self._decoder is not None:
            self._decoder.truncate(slot, held, kept)
        self._n_past[slot] = kept
        return kept

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        """See `Engine.fork`."""
        if source == target:
            return self.truncate(source, n_tokens)
        held = self._n_past[source]
        kept = min(n_tokens, held)
        if kept and self._decoder is not None:
            self._decoder.fork(source, held, target, kept)
        self._n_past[target] = kept
        return kept

    def close(self) -> None:
        """Free session and cache."""
        self._decoder = None

    def _side_by_side(self, batch: Sequence[SlotInput]) -> list[int]:
        """Single tokens of neighbouring slots in one run, the rest one by one; where each entry's logits are."""
        assert isinstance(self._decoder, InPlaceKvDecoder)
        starts, at = [0] * len(batch), 0
        ones = sorted((entry.slot, index) for index, entry in enumerate(batch) if len(entry.tokens) == 1)
        for span in self._spans([slot for slot, _ in ones]):
            run = [(slot, index) for slot, index in ones if slot in span]
            if len(run) == 1:
                continue
            tokens, lengths = [0] * len(span), self._n_past[span.start : span.stop]
            for slot, index in run:
                tokens[slot - span.start] = batch[index].tokens[0]
                starts[index] = at + slot - span.start
            self._decoder.append_each(span.start, lengths, tokens, at)
            ones = [pair for pair in ones if pair not in run]
            at += len(span)
        alone = {index for _, index in ones}
        for index, entry in enumerate(batch):
            if len(entry.tokens) > 1 or index in alone:
                self._decoder.append(entry.slot, entry.n_past, entry.tokens, entry.n_logits, at)
                starts[index] = at
                at += entry.n_logits
        return starts

    def _spans(self, slots: Sequence[int]) -> list[range]:
        """Runs of slots side by side. One that does not take part may lie between two that do: it computes a token
        into the cell after its last, which nobody reads. A full slot has no such cell."""
        spans: list[range] = []
        for slot in slots:
            if spans:
                gap = range(spans[-1].stop, slot)
                if len(gap) <= 1 and all(self._n_past[other] < self.info.n_ctx for other in gap):
                    spans[-1] = range(spans[-1].start, slot + 1)
                    continue
            spans.append(range(slot, slot + 1))
        return spans

    def _lost(self, batch: Sequence[SlotInput], error: Exception) -> StepFailed:
        lost = tuple(entry.slot for entry in batch)
        for slot in lost:
            self._n_past[slot] = 0
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return StepFailed(f"onnxruntime failed in a step: {words[:400]}", lost_slots=lost)

    def _new_decoder(
        self, model: OnnxModel, opened: Opened, settings: Settings, options: Options
    ) -> InPlaceKvDecoder | ConcatKvDecoder:
        signature = decoder(model)
        if signature.shared:
            return InPlaceKvDecoder(opened.session, signature, self._rows, settings, opened.memory)
        first = later = BoundGraph(Binding(opened.session, opened.memory), signature)
        if model.folder.first is not None and model.first_signature is not None:
            choice = choose(options.provider, onnxruntime.get_available_providers(), settings.devices)
            session = open_session(model.folder.first, settings, options, choice).session
            first = BoundGraph(Binding(session, opened.memory), model.first_signature)
        return ConcatKvDecoder((first, later), self._rows, settings, opened.memory)

    def _describe(self, model: OnnxModel, opened: Opened, eos_ids: frozenset[int], settings: Settings) -> EngineInfo:
        signature, tokenizer, n_embd = decoder(model), self.tokenizer, model.folder.config.get("hidden_size")
        together = signature.shared and signature.batches
        cache = "written in place" if signature.shared else "two buffers in turn"
        return EngineInfo(
            n_slots=settings.n_slots, n_ctx=settings.n_ctx, max_batch_tokens=settings.n_batch,
            max_logits=min(settings.n_batch, self._rows.max_rows), vocab_size=signature.vocab, eos_ids=eos_ids,
            n_embd=n_embd if type(n_embd) is int and 0 < n_embd < 2**31 else 0,
            add_bos=tokenizer.add_bos, bos_text=tokenizer.bos_text, eos_text=tokenizer.eos_text,
            chat_template=tokenizer.chat_template, response_template=tokenizer.response_template,
            special_texts=tokenizer.special_texts, added_texts=tokenizer.added_texts, rewind_tokens=None,
            fork_copies=True, batch_invariant=False,
            device="cpu" if opened.provider == "CPUExecutionProvider" else opened.provider,
            details={
                "library": f"onnxruntime {onnxruntime.__version__}", "provider": f"{opened.provider}: {opened.reason}",
                "graph": f"{model.graph.where} ({model.graph.producer or 'producer not named'})",
                **({"operators": opened.nodes} if opened.nodes else {}),
                "cache": f"{signature.cache_type}, {cache}",
                "slots": "decoded together" if together else "decoded one after another",
                "logits": "as many rows as asked for" if signature.num_logits else "a row for every token",
            },
        )  # fmt: skip
