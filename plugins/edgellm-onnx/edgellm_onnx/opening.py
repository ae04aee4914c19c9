"""From a plan to an engine: the graph's checks, its tokenizer, and that both agree."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

from edgellm.contract.data_limit import lift_limit
from edgellm.contract.engine import Engine
from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.tokenizer import from_json
from edgellm.formats.tokenizer.tokenizer import FileTokenizer
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_onnx import library
from edgellm_onnx.footprint import footprint
from edgellm_onnx.load_limit import limited_load
from edgellm_onnx.model import OnnxModel, problems, read_model
from edgellm_onnx.options import Options
from edgellm_onnx.reader.graph import OnnxGraph

log = logging.getLogger("edgellm.onnx")

CHECKED_BYTES = 256 << 20  # of a graph: onnx.checker reads it whole


def open_engine(plan: LaunchPlan, options: Options) -> Engine:
    """
    Raises:
        BadArtifact, UnsupportedArtifact, BackendUnavailable.
    """
    model = read_model(plan.artifact.path)
    if refusals := problems(model, library.verdict()):
        raise UnsupportedArtifact(refusals[0], hint="`edgellm doctor` names the onnxruntime in use")
    if model.signature is None:
        from edgellm_onnx.encoder import EncoderEngine

        with _limited(model, plan.settings, options):
            return EncoderEngine(plan, model.folder.graph)
    tokenizer = from_json.read_tokenizer_json(model.folder.path)
    if tokenizer.n_tokens > model.signature.vocab:
        raise BadArtifact(
            f"{model.folder.path}: the tokenizer has {tokenizer.n_tokens} tokens, the logits {model.signature.vocab}",
            hint="the folder's tokenizer belongs to another model",
        )
    for graph in model.graphs:
        check(graph)
    from edgellm_onnx.engine import DecoderEngine

    with _limited(model, plan.settings, options):
        return DecoderEngine(model, tokenizer, end_tokens(model, tokenizer), plan.settings, options)


def _limited(model: OnnxModel, settings: Settings, options: Options) -> AbstractContextManager[None]:
    """Of a load by the CPU: drivers of GPUs reserve memory as they like."""
    if settings.devices or options.provider not in ("auto", "cpu"):
        lift_limit()
        return nullcontext()
    n_bytes = sum(graph.tensor_bytes + graph.file_bytes for graph in model.graphs)
    if predicted := footprint(model, settings, options):
        n_bytes += predicted.kv_bytes + predicted.compute_bytes + predicted.output_bytes
    return limited_load(n_bytes, max(settings.n_threads, settings.n_threads_batch))


def end_tokens(model: OnnxModel, tokenizer: FileTokenizer) -> frozenset[int]:
    """The tokenizer's own, and those that the configurations name.

    Raises:
        BadArtifact: one that is no token.
    """
    vocab = model.signature.vocab if model.signature is not None else tokenizer.n_tokens
    named = {}
    for name, section in (
        ("genai_config.json", model.folder.genai_section("model")),
        ("config.json", model.folder.config),
    ):
        value = section.get("eos_token_id")
        named.update({token: name for token in (value if isinstance(value, list) else [value]) if token is not None})
    for token, name in named.items():
        if type(token) is not int or not 0 <= token < vocab:
            raise BadArtifact(
                f"{model.folder.path}/{name}: eos_token_id is {str(token)[:40]}, tokens are 0 to {vocab - 1}",
                hint="the file is damaged; fetch the model again",
            )
    return tokenizer.eos_ids | frozenset(named)


def check(graph: OnnxGraph) -> None:
    """The ONNX project's own check of a graph, where it can tell.

    onnxruntime's own operators that stand among ONNX's (SimplifiedLayerNormalization, in every folder of its genai
    library) are unknown to it and end it; a graph of hundreds of megabytes it would read whole.

    Raises:
        BadArtifact: it does not pass.
    """
    import onnx

    standard = {schema.name for schema in onnx.defs.get_all_schemas()}
    strange = sorted({node.op for node in graph.nodes if not node.domain} - standard)
    if strange or graph.file_bytes > CHECKED_BYTES:
        log.info("%s is not put to onnx.checker: %s", graph.where, ", ".join(strange) or "it is too large")
        return
    try:
        onnx.checker.check_model(graph.where)
    except Exception as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadArtifact(
            f"{graph.where} is not a valid ONNX model: {words[:400]}", hint="export or fetch it again"
        ) from error
