"""From catalog rows to options: models for the task, in files, on backends that open them; and why others are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from edgellm.estimate import exports, quality, quants, weights
from edgellm.selection.adapter_fit import RULE, misfit
from edgellm.selection.backend_facts import GGML_FORMATS, BackendFacts
from edgellm.selection.context import SelectionContext
from edgellm.selection.option import Option
from edgellm.selection.scenario import Scenario
from edgellm.selection.usable_gpu import UsableGpu, usable_gpus
from edgellm.types.model import ModelCard, ModelFile, Shape
from edgellm.types.plan import Rejection
from edgellm.types.priors import ExportRule
from edgellm.types.refusal import NoBackendOpens, NoFiles, ShapeUnknown, SizeUnknown, WrongKind

MEMO_ROWS = 20_000
OTHER_FORMAT = "backend_opens_format"  # the rule where no backend opens files of the kind
_memo: dict[tuple[str, str, str], tuple[ModelCard, ModelFile, ExportRule | None, weights.Weights | None]] = {}
# Encoders read a text at once and keep nothing of it (llama.cpp b11434: no memory is made for them).
ENCODERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "modern-bert", "gemma-embedding"})


def expand(context: SelectionContext, scenario: Scenario) -> tuple[list[Option], list[Rejection]]:
    """Options in the order of the cards, and a rejection for each model or file that is none.

    Every backend of the context is taken to run. Caches are of the type that is asked for, or f16; rules lower the
    type where that buys something (`Option.lower`).
    """
    cards = context.cards
    kind = scenario.needs.kind
    gpus = {
        b.name: usable_gpus(
            b.offload, context.machine, context.gpus, context.corrections.strangers(b.name).__contains__,
            b.priors.providers,
        )
        for b in context.backends
    }  # fmt: skip
    scored = {card.id: card for card in cards if card.scores}
    options: list[Option] = []
    rejected: list[Rejection] = []
    for card in cards:
        if card.kind != kind:
            rejected.append(Rejection(card.id, "", f"is_{kind}_model", WrongKind(card.kind)))
        elif card.shape is None:
            rejected.append(Rejection(card.id, "", "has_known_shape", ShapeUnknown()))
        elif not card.files:
            rejected.append(Rejection(card.id, "", "has_files", NoFiles()))
        else:
            ability = quality.ability(
                card, scored, scenario.request.task, thinks=card.thinks(scenario.request.thinking)
            )
            for file in card.files:
                shape, rule = card.shape, export_rule(context.backends, file.format)
                if shape.arch in ENCODERS:
                    shape = replace(shape, kv_full_bytes=0, kv_swa_bytes=0, sliding_window=0)
                elif rule is not None:
                    shape = exports.cached(shape, rule)
                options += _of_file(card, shape, file, ability, context, scenario, rejected, gpus)
    return options, rejected


def _of_file(  # noqa: PLR0917
    card: ModelCard,
    shape: Shape,
    file: ModelFile,
    ability: quality.Estimate,
    context: SelectionContext,
    scenario: Scenario,
    rejected: list[Rejection],
    gpus: Mapping[str, tuple[UsableGpu, ...]],
) -> list[Option]:
    backends = context.backends
    for need in scenario.request.adapters:
        if (why := misfit(need, card, file, shape)) is not None:
            rejected.append(Rejection(card.id, file.quant, RULE, why))
            return []
    is_local = file.source in context.stored or (file.sha256 is not None and file.sha256 in context.stored)
    if not is_local and (absence := context.absent.get(file.source)) is not None:
        rejected.append(Rejection(card.id, file.quant, "can_be_had", absence))
        return []
    opens_format = any(file.format in backend.formats for backend in backends)
    size = _weights_of(card, shape, file, export_rule(backends, file.format))
    # The rule of another format belongs to its backend: without one, that is what is missing.
    if size is None and (opens_format or file.format in GGML_FORMATS):
        rejected.append(Rejection(card.id, file.quant, "has_known_size", SizeUnknown(file.quant)))
        return []
    options: list[Option] = []
    refusals = []
    for backend in backends:
        kv_type = scenario.request.kv_type or backend.usual_cache
        refusal = backend.refuses(file, shape.arch) or backend.refuses_cache(kv_type, shape)
        if refusal is not None:
            # Who opens other formats has nothing to say of this file, unless nobody opens it.
            if file.format in backend.formats or not opens_format:
                refusals.append(refusal)
        elif size is not None:
            key = (backend.name, card.id, file.quant)
            options.append(
                Option(
                    card,
                    file,
                    backend,
                    shape,
                    size,
                    scenario,
                    ability,
                    is_local,
                    kv_type,
                    context.corrections,
                    mean_kl=context.divergences.get(key),
                    veto=context.vetoes.get(key, ""),
                    gpus=gpus[backend.name],
                )
            )
    if not options:
        rule = "backend_opens_it" if opens_format else OTHER_FORMAT
        rejected.append(Rejection(card.id, file.quant, rule, NoBackendOpens(tuple(refusals))))
    return options


def export_rule(backends: Iterable[BackendFacts], file_format: str) -> ExportRule | None:
    """How files of a format are exported, as the first backend says that knows."""
    rules = (backend.priors.export for backend in backends)
    return next((rule for rule in rules if rule is not None and rule.format == file_format), None)


def _weights_of(card: ModelCard, shape: Shape, file: ModelFile, rule: ExportRule | None) -> weights.Weights | None:
    """As `file_weights`, once for each row object: a fleet and its requests ask for the same again and again."""
    key = (card.id, file.source, file.quant)
    entry = _memo.get(key)
    if entry is None or entry[0] is not card or entry[1] is not file or entry[2] is not rule:
        if len(_memo) >= MEMO_ROWS:
            _memo.clear()
        entry = _memo[key] = (card, file, rule, file_weights(card, shape, file, rule))
    return entry[3]


def file_weights(
    card: ModelCard, shape: Shape, file: ModelFile, rule: ExportRule | None = None
) -> weights.Weights | None:
    """Weights of one file: by rules and its publisher's own types, corrected by a published size; None = unknown.

    Args:
        rule: how files of this format are exported; None = no backend states one.
    """
    if rule is not None and file.quant in rule.table_types:
        return _sized(exports.weights(shape, card.params, card.params_active, file.quant, rule), file)
    quant = quants.QUANTS.get(file.quant)
    has_recipe = quant is not None and quant.predictable and file.format in GGML_FORMATS
    if quant is None or (not has_recipe and file.tensor_bytes is None):
        return None
    types = tuple(file.types.items())
    return _sized(weights.weights(shape, card.params, card.params_active, quant.recipe, types), file)


def _sized(predicted: weights.Weights, file: ModelFile) -> weights.Weights:
    return predicted if file.tensor_bytes is None else predicted.with_tensor_bytes(file.tensor_bytes)
