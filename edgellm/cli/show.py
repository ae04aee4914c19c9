"""`edgellm show`: what is known of a model, before anything of it is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import models_dir, models_file
from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import BACKEND, MODEL
from edgellm.units import show_params, show_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm.app.resolve import ResolvedModel
    from edgellm.store.manifest import StoredModel
    from edgellm.types.model import Artifact, ModelFile
    from edgellm.types.sampling_defaults import SamplingDefaults

SCHEMA = 1


@click.command(epilog=examples("edgellm show qwen3-4b", "edgellm show ./model.gguf", "edgellm show hf://OWNER/REPO"))
@click.argument("model", type=MODEL)
@click.option("--backend", type=BACKEND, help="Of a path in a format that only a plugin knows: the backend for it.")
@click.option("--offline", is_flag=True, help="Make no requests: the catalog describes an address.")
@models_dir
@models_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(*, model: str, backend: str | None, offline: bool, models_file: Path | None, as_json: bool) -> None:
    """Show what is known of a model.

    MODEL is a catalog id, a path of a model file or an address.
    """
    from edgellm.app import own_format
    from edgellm.app.asked import refuse_options
    from edgellm.app.context import here
    from edgellm.app.resolve import named_artifact, resolve
    from edgellm.store import manifest
    from edgellm.store.library import Library

    context = here(models_file)
    artifact = named_artifact(model, context, backend)
    if artifact is not None and own_format.is_own(artifact):
        _show_own(artifact, own_format.opened_by(artifact, backend), model, backend, as_json=as_json)
        return
    refuse_options(model, backend=backend)
    resolved = resolve(model, context, offline=offline, artifact=artifact)
    if resolved.typed:
        say(f"{resolved.typed} is taken as {resolved.card.id}.", err=True)
    names = (resolved.card.id, resolved.shown_as)
    stored = [manifest.check(s, again=False) for s in Library().installed() if s.model_id in names]
    sampling = _sampling(resolved, stored)
    if as_json:
        say_json(_row(resolved, stored, sampling))
        return
    say(resolved.card.id, bold=True)
    for label, text in _lines(resolved, stored, sampling):
        say(text, lead=f"  {label:<14}")
    say(f"\n`edgellm estimate {model}` predicts memory, speed and quality here.")


def _show_own(artifact: Artifact, opened_by: str, model: str, backend: str | None, *, as_json: bool) -> None:
    """What is known of a model in a format that only plugins know."""
    facts = f"{opened_by}; EdgeLLM itself reads no header of {artifact.format} files"
    if as_json:
        unknown = dict.fromkeys(("kind", "params", "params_active", "ctx_train", "license", "license_restricts"))
        file = {"quant": None, "format": artifact.format, "bytes": artifact.bytes, "source": f"file:{artifact.path}"}
        more = dict.fromkeys(("sampling", "sampling_facts", "family", "thinking", "native_quant"))
        rest: dict[str, Any] = {"scores": {}, "hf_repo": None, "shape": None, "files": [file], "installed": []}
        say_json({"schema": SCHEMA, "id": artifact.name, **unknown, "facts": facts, **more, **rest})
        return
    say(artifact.name, bold=True)
    for label, text in (("format", artifact.format), ("size", show_size(artifact.bytes)), ("facts from", facts)):
        say(text, lead=f"  {label:<14}")
    named = f" --backend {backend}" if backend else ""
    say(f"\n`edgellm estimate {model}{named}` asks the backend what memory it takes here.")


def _sampling(resolved: ResolvedModel, stored: Sequence[StoredModel]) -> SamplingDefaults | None:
    """What its answers are drawn by here; None = it writes none. A file that is not here may say something else."""
    from edgellm.app import sampling_defaults

    if resolved.card.kind in ("embedding", "reranker"):
        return None
    artifacts = (resolved.artifact, *(s.artifact() for s in stored if not s.problem))
    return sampling_defaults.of(next((artifact for artifact in artifacts if artifact is not None), None), resolved.card)


def _row(resolved: ResolvedModel, stored: Sequence[StoredModel], sampling: SamplingDefaults | None) -> dict[str, Any]:
    from edgellm import explain
    from edgellm.selection.decision_json import about_model

    card = resolved.card
    return {
        "schema": SCHEMA,
        **about_model(card),
        "facts": resolved.basis,
        **explain.plain({"sampling": sampling}),
        **explain.fields(card, "family", "thinking", "native_quant", "scores", "hf_repo", "shape"),
        "files": [explain.fields(file, "quant", "format", "bytes", "source") for file in card.files],
        "installed": [
            {"quant": s.quant, "bytes": s.bytes, "folder": str(s.folder), "problem": explain.stored(s.problem)}
            for s in stored
        ],
    }


def _lines(
    resolved: ResolvedModel, stored: Sequence[StoredModel], sampling: SamplingDefaults | None
) -> list[tuple[str, str]]:
    from edgellm import explain
    from edgellm.selection.reasons import FREE_LICENSES

    card = resolved.card
    active = f", {show_params(card.params_active)} of them active for each token"
    restricts = "" if card.license in (*FREE_LICENSES, "unknown") else ", which restricts use"
    lines = [
        ("kind", card.kind + (", always thinks before it answers" if card.thinking else "")),
        ("parameters", show_params(card.params) + (active if card.params_active < card.params else "")),
        ("licence", card.license + restricts),
        ("context", explain.trained_length(card)),
    ]
    if card.shape is not None:
        lines.append(("architecture", f"{card.shape.arch}, {card.shape.n_layer} layers"))
    if card.native_quant:
        lines.append(("trained in", card.native_quant))
    lines += [("score", f"{score:g} in {benchmark}, as published") for benchmark, score in card.scores.items()]
    published = filter(_is_published, card.files)
    lines.append(("published", ", ".join(map(_file, published)) or "no file is known"))
    here = (f"{s.quant}, {show_size(s.bytes)}, {explain.stored(s.problem) or s.folder}" for s in stored)
    lines += [("on this disk", text) for text in here]
    if sampling is not None:
        lines.append(("sampling", explain.drawn_by(sampling)))
    lines.append(("facts from", resolved.basis))
    return lines


def _is_published(file: ModelFile) -> bool:
    from edgellm.contract.source import scheme_of
    from edgellm.store.library import MADE

    is_own = file.trust == "stored" and scheme_of(file.source) == "file"  # `edgellm quantize --output` wrote it
    return not is_own and not file.source.startswith(MADE)


def _file(file: ModelFile) -> str:
    return file.quant if file.bytes is None else f"{file.quant} ({show_size(file.bytes)})"
