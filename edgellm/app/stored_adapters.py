"""Adapters that are brought, written out and named: `MODEL:NAME` of the store, a GGUF file, or a peft folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edgellm.adaptation import adapter_file, peft_export, peft_folder
from edgellm.adaptation.lora import Lora
from edgellm.adaptation.peft_config import read_config
from edgellm.app import context as app_context
from edgellm.app.adapters import check_no_quant, name_of
from edgellm.app.quantize.source import QuantizeSource, find
from edgellm.contract.source import Progress
from edgellm.errors import ArtifactError, UnknownAdapter, UnknownModel, UsageError
from edgellm.files import expanded, require_room
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.selection.context import SelectionContext
from edgellm.store.adapters import AdapterOrigin, AdapterStore, StoredAdapter
from edgellm.store.content_hash import content_hash
from edgellm.store.library import silent

GGUF, PEFT = "gguf", "peft"
FORMS = (GGUF, PEFT)


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """Factors, where they came from, and the model whose matrices they change."""

    lora: Lora
    where: str
    base: QuantizeSource


def locate(text: str, store: AdapterStore | None = None) -> StoredAdapter | Path:
    """What `text` names: a path that exists, or MODEL:NAME of the store.

    Raises:
        UnknownAdapter: neither.
    """
    path = expanded(text)
    base_id, _, name = text.rpartition(":")
    if base_id and not path.exists():
        return (store or AdapterStore()).find(base_id, name)
    if not path.exists():
        hint = "name a .gguf file, a folder of peft, or MODEL:NAME of `edgellm adapters list`"
        raise UnknownAdapter(f"there is no adapter {text[:80]!r}", hint=hint, adapter=text)
    return path


def bring(path: Path, model: str, name: str = "", *, force: bool = False, progress: Progress = silent) -> StoredAdapter:
    """Store the adapter at `path`, a GGUF file or a peft folder, for the file that `model` names.

    Raises:
        UsageError: no such name, or it is taken. UnknownModel, ArtifactError: the model.
        BadArtifact, UnsupportedArtifact: it is no adapter, or of another model.
    """
    if not path.exists():
        hint = "name a .gguf file, or a folder that peft wrote"
        raise UnknownAdapter(f"{path} does not exist", hint=hint, adapter=str(path))
    name = name or name_of(path)
    check_no_quant(name, hint="choose another one with --name")
    base = find(model, app_context.here(), progress)

    if path.is_dir():
        lora = peft_folder.load(path, base.content)
        lora.require_adapter(str(path))
    else:
        gguf_adapter.check(gguf_adapter.read(path, hashed=False), base.content)
        lora = adapter_file.load(path)  # values that are no numbers are refused now, not in an answer

    def write(target: Path) -> None:
        if path.is_dir():
            adapter_file.write(target, lora)
        else:
            require_room(target.parent, path.stat().st_size, path.name, hint="make room in EDGELLM_HOME")
            shutil.copyfile(path, target)

    artifact = base.artifact
    origin = AdapterOrigin(
        name, base.card.id, artifact.quant, content_hash(artifact), str(Path(artifact.path).absolute()),
        method=_method(path), source=str(path.absolute()),
    )  # fmt: skip
    return AdapterStore().add(origin, write, force=force)


def _method(path: Path) -> str:
    """As far as the folder tells."""
    if not path.is_dir():
        return ""
    config = read_config(path)
    if config.peft_type == "VERA":
        return "vera"
    return "dora" if config.use_dora else "rslora" if config.use_rslora else "lora"


def load(text: str, model: str = "", *, progress: Progress = silent) -> LoadedAdapter:
    """The adapter that `text` names, for `model`, or for the file that a stored one was made for.

    Raises:
        UnknownAdapter. UsageError: a path without a model. UnknownModel, ArtifactError: the model or the adapter.
    """
    context, place = app_context.here(), locate(text)
    if isinstance(place, StoredAdapter):
        base = find(model, context, progress) if model else _base_of(place, context, progress)
        place.require_base(content_hash(base.artifact), base.artifact.path)
        return LoadedAdapter(adapter_file.load(place.path), place.label, base)
    if not model:
        raise UsageError(f"{text} does not say which model it is for", hint="name it with --base MODEL", param="base")
    base = find(model, context, progress)
    lora = peft_folder.load(place, base.content) if place.is_dir() else adapter_file.load(place)
    return LoadedAdapter(lora, str(place), base)


def _base_of(stored: StoredAdapter, context: SelectionContext, progress: Progress) -> QuantizeSource:
    """The file that it was made for: where it lay, while it has those bytes, else that of the model's name."""
    record = stored.adapter()
    try:
        base = find(record.base_path, context, progress)  # looked at before it is hashed: it may be any file by now
        if content_hash(base.artifact) == record.base_sha256:
            return base
    except (UnknownModel, ArtifactError):
        pass  # it went; the store may have the file elsewhere
    try:
        return find(f"{record.base_id}:{record.base_quant}", context, progress)
    except UnknownModel as error:
        message = f"the model that {stored.label} was made for is not at {record.base_path} any more"
        raise UnknownModel(message, hint="name its file with --base", param="base") from error


def export(
    text: str, output: Path, *, form: str = "", stored: str = "", model: str = "", force: bool = False,
    progress: Progress = silent,
) -> int:  # fmt: skip
    """Write an adapter as a GGUF file (tensors of type `stored`) or a peft folder; returns its bytes.

    Without `form`, a name that ends in .gguf is a file.

    Raises:
        UsageError: it exists, or cannot be written. UnsupportedArtifact: that form cannot say it. Others: as `load`.
    """
    form = form or (GGUF if output.suffix == ".gguf" else PEFT)
    place = locate(text)
    if stored and form == PEFT:
        raise UsageError("a type is of GGUF files", hint="a folder of peft keeps F16, and else has F32", param="type")
    if form == GGUF:
        if isinstance(place, StoredAdapter):
            place.adapter()
        file = place.path if isinstance(place, StoredAdapter) else place
        lora = load(text, model, progress=progress).lora if file.is_dir() else adapter_file.load(file)
        adapter_file.write(output, lora, stored=stored, replace=force)
        return output.stat().st_size
    loaded = load(text, model, progress=progress)
    card = loaded.base.card
    peft_export.write(output, loaded.lora, loaded.base.content, base=card.hf_repo or card.id)
    return sum(file.stat().st_size for file in output.iterdir())
