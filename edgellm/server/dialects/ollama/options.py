"""`options` of Ollama's bodies: how tokens are drawn, and how a model is loaded, which was decided before."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields
from edgellm.types.checks import check_range
from edgellm.types.request import MAX_STOPS
from edgellm.types.sampling import PARAMETERS, Sampling

# Ollama's names of the parameters of sampling.
OWN_NAMES = {name: name for name in PARAMETERS} | {
    "repetition_penalty": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}


class OllamaOptions(Fields, kw_only=True):
    """What is left open follows from the model, as in every other request."""

    IGNORED = (
        # Of the load.
        "num_batch",
        "num_gpu",
        "num_thread",
        "main_gpu",
        "numa",
        "low_vram",
        "f16_kv",
        "use_mmap",
        "use_mlock",
        "logits_all",
        "vocab_only",
        "embedding_only",
        # Of samplers and of a shifted context, none of which are here.
        "num_keep",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
        "tfs_z",
        "penalize_newline",
    )

    num_ctx: Annotated[int | None, Meta(description="Up to the context that is served; more is refused.")] = None
    num_predict: Annotated[int | None, Meta(description="Most tokens of the answer; -1, -2 and 0: no limit.")] = None
    seed: Annotated[int | None, Meta(description="Below 0: another answer each time.")] = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: Annotated[float | None, Meta(description="1 = off.")] = None
    repeat_last_n: Annotated[int | None, Meta(description="Tokens that penalties look back over; -1 = all.")] = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def sampling(self) -> Sampling:
        seed = self.seed if self.seed is None or self.seed >= 0 else None
        return Sampling(seed=seed, **{name: getattr(self, own) for name, own in OWN_NAMES.items()})

    def limit(self) -> int | None:
        """The largest number of tokens in the answer; None = until the context is full.

        Raises:
            UsageError: it is no number of tokens.
        """
        sent = self.num_predict
        check_range(sent is None or sent >= -2, f"options.num_predict={sent}", "-2 or more; -2 to 0: no limit")
        return self.num_predict if self.num_predict is not None and self.num_predict > 0 else None

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def check_context(self, n_ctx: int, longest: int) -> None:
        """
        Raises:
            UsageError: a longer context is asked for than the one that is served, of `n_ctx` tokens. `longest`: that
            the model was trained for; 0 = unknown.
        """
        asked = self.num_ctx
        if asked is not None and not 0 < asked <= n_ctx:
            what = f"options.num_ctx={asked}: the context that is served holds {n_ctx} tokens"
            hint = f"send at most {n_ctx} or leave num_ctx out"
            if not 0 < longest <= n_ctx:
                hint += ", or start the server with a longer context (--ctx)"
            raise UsageError(what, hint=hint, param="options.num_ctx")
