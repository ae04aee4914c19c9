"""Files of a Hugging Face tokenizer, each read within bounds."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from edgellm.errors import BackendUnavailable, BadArtifact, UnsupportedArtifact
from edgellm.formats.json_file import read_object
from edgellm.formats.tokenizer.growth import Excess, check_growth

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

_MIB = 1024**2
# tokenizer.json of 262,144 tokens takes 33 MB; tokenizer_config.json may list every added token.
MAX_BYTES = {
    "tokenizer.json": 128 * _MIB,
    "tokenizer_config.json": 16 * _MIB,
    "generation_config.json": _MIB,
    "chat_template.jinja": _MIB,
}
MAX_RESPONSE_TEMPLATE = 64 * 1024  # characters of JSON: those of seven families have 500 to 1,000


class TokenizerFolder:
    """A folder that holds tokenizer.json. All but that file may be missing."""

    def __init__(self, folder: str | Path) -> None:
        self.path = str(folder)

    def fail(self, name: str, key: str, why: str) -> NoReturn:
        raise BadArtifact.damaged(f"{os.path.join(self.path, name)}: {key} {why}", remedy="fetch the model again")

    def pipeline(self) -> Pipeline:
        """tokenizer.json as the library reads it, without truncation and padding."""
        data = self._read("tokenizer.json")
        if data is None:
            raise UnsupportedArtifact(
                f"{self.path} has no tokenizer.json", hint="save the model with its fast tokenizer, or use a GGUF file"
            )
        self._check(data)
        try:
            from tokenizers import Tokenizer as Pipeline
        except ImportError as error:
            raise BackendUnavailable(
                "the tokenizers library is not installed", hint="pip install tokenizers"
            ) from error
        with self.refusing("cannot be read"):
            pipeline = Pipeline.from_buffer(data)
            pipeline.no_truncation()
            pipeline.no_padding()
        return pipeline

    def _check(self, data: bytes) -> None:
        try:
            check_growth(data)
        except Excess as error:
            self.fail("tokenizer.json", error.key, error.why)
        except (msgspec.MsgspecError, RecursionError) as error:
            self.fail("tokenizer.json", "the file", f"is not a tokenizer: {error}")

    def json(self, name: str) -> dict[str, Any]:
        """An object; empty where the file is missing."""
        return read_object(Path(self.path) / name, most=MAX_BYTES[name])

    def chat_template(self, config: dict[str, Any]) -> str | None:
        """chat_template.jinja, else what `config` (tokenizer_config.json) holds: a text, or several with names."""
        data = self._read("chat_template.jinja")
        if data is not None:
            return data.decode("utf-8", "replace")
        value = config.get("chat_template")
        if isinstance(value, list):
            templates = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
            value = templates.get("default")
        if value is not None and not isinstance(value, str):
            self.fail("tokenizer_config.json", "chat_template", f"is not text but a {type(value).__name__}")
        return value if value and value.strip() else None

    def response_template(self, config: dict[str, Any]) -> str:
        """JSON of what `config` (tokenizer_config.json) says of how answers are marked; "" where it says nothing."""
        value = config.get("response_template")
        if value is None:
            return ""
        try:
            text = json.dumps(value)
        except RecursionError:
            self.fail("tokenizer_config.json", "response_template", "is nested too deeply")
        if len(text) > MAX_RESPONSE_TEMPLATE:
            what = f"has {len(text)} characters, {MAX_RESPONSE_TEMPLATE} are allowed"
            self.fail("tokenizer_config.json", "response_template", what)
        return text

    @contextlib.contextmanager
    def refusing(self, what: str) -> Iterator[None]:
        """Turns what the library raises into a BadArtifact. Its panics are not subclasses of `Exception`."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            self.fail("tokenizer.json", what, f"({type(error).__name__}: {str(error)[:200]})")

    def _read(self, name: str) -> bytes | None:
        """A whole file; None where there is none. A pipe or device would never end: refused."""
        path = os.path.join(self.path, name)
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                self.fail(name, "the file", "is not a regular file")
            if status.st_size > MAX_BYTES[name]:
                self.fail(name, "the file", f"has {status.st_size} bytes, {MAX_BYTES[name]} are allowed")
            with open(path, "rb") as file:
                return file.read(MAX_BYTES[name])
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.fail(name, "the file", f"cannot be read: {error}")
