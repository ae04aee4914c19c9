"""`edgellm convert MODEL.gguf --to onnx`: a folder that onnxruntime and onnxruntime-genai open, made without torch."""

from __future__ import annotations

import contextlib

from edgellm.contract.converter import Conversion, Converted
from edgellm.contract.source import Progress
from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError
from edgellm.formats.gguf.decoder import read_decoder
from edgellm.formats.tokenizer.keys import TokenizerKeys
from edgellm_onnx.convert_config import MODEL, write_configs
from edgellm_onnx.convert_folder import new_folder
from edgellm_onnx.convert_plan import BITS, Planner
from edgellm_onnx.convert_source import Source
from edgellm_onnx.convert_write import Writer
from edgellm_onnx.graph_store import DataFile
from edgellm_onnx.tokenizer_writer import write_tokenizer

TABLES = {"int4": 4, "int8": 8, "f16": 16}  # values of --embedding


def convert(conversion: Conversion, progress: Progress) -> Converted:
    """See `edgellm.contract.converter.Converter`. Memory: some rows of one tensor, and the rotation tables."""
    table_bits = _table_bits(conversion)
    source = Source(conversion.source.path)
    decoder = read_decoder(source.model)
    planner = Planner(source, decoder, conversion.bits, table_bits)
    plan = planner.plan()
    _all_used(source)
    target = conversion.target
    with new_folder(target, replace=conversion.replace) as folder:
        progress(0, None, "writing the tokenizer")
        tokenizer = write_tokenizer(source.model.header, folder)
        if tokenizer.n_tokens > decoder.vocab:
            raise BadArtifact.damaged(
                f"{source.where} has {tokenizer.n_tokens} tokens and an embedding table of {decoder.vocab} rows"
            )
        pad_id = TokenizerKeys(source.model.header).padding(tokenizer.n_tokens)
        write_configs(folder, decoder, tokenizer, pad_id)
        with contextlib.closing(DataFile(folder, plan.store)) as data:
            writer = Writer(source, plan, data, progress, f"writing {target.name}")
            writer.write()
        (folder / MODEL).write_bytes(plan.model.SerializeToString(deterministic=True))
        n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return Converted(target, n_bytes, (*_notes(planner), *writer.changes.notes()))


def _table_bits(conversion: Conversion) -> int:
    if conversion.i2s_layout:
        raise UsageError("--i2s-layout is about I2_S files", hint="leave it out", param="i2s_layout")
    if conversion.bits not in (0, *BITS):
        raise UsageError(f"--bits {conversion.bits} is not known", hint="4, 8 and 16 are", param="bits")
    if conversion.embedding and conversion.embedding not in TABLES:
        raise UsageError(
            f"--embedding {conversion.embedding} is not known for onnx", hint=f"known are {', '.join(TABLES)}",
            param="embedding",
        )  # fmt: skip
    return TABLES.get(conversion.embedding, 0)


def _all_used(source: Source) -> None:
    """Raises: UnsupportedArtifact: a tensor that the graph has no place for, so the model would not be this one."""
    unused = source.unused()
    if unused:
        raise UnsupportedArtifact(
            f"{source.where}: {len(unused)} tensors have no place in the ONNX graph, the first is {unused[0]}",
            hint="run the GGUF file itself; edgellm-gguf opens it",
        )


def _notes(planner: Planner) -> list[str]:
    decoder, notes = planner.decoder, []
    if decoder.interleaved:
        notes.append(
            "Rows of q and k were put from llama.cpp's order of rotated neighbours into halves, values as they are."
        )
    if planner.odd_rows:
        notes.append(
            f"{len(planner.odd_rows)} matrices have rows of no whole blocks of 32 and stay at 16 bits, the first is "
            f"{planner.odd_rows[0]}."
        )
    return notes
