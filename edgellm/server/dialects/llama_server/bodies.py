"""Bodies of llama-server's own routes, and the requests that they become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from edgellm.errors import UnknownAdapter, UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.sdk.tokens import tokenize_each
from edgellm.server.schemas.fields import Fields, NeutralValues, RequestBody, shortened
from edgellm.server.schemas.inputs import Inputs, inputs_of
from edgellm.server.schemas.structured import StructuredBody
from edgellm.types.adapter import MAX_ADAPTERS, AdapterSet
from edgellm.types.checks import check_range
from edgellm.types.logprob import MAX_TOP
from edgellm.types.request import MAX_IDS, MAX_INPUTS, MAX_STOPS, MAX_TOKEN_BYTES, GenerationRequest
from edgellm.types.sampling import MAX_BIASES, Sampling

# llama-server's names of sampling values, by ours.
SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
NEVER = -100.0  # the bias of a token for which `false` is sent
MAX_REPEATED = 16 * 1024**2  # characters or tokens of the request that its answers repeat, all together


class LlamaAdapter(Fields, kw_only=True):
    """`id`: its place in the list of /lora-adapters, from 0 on."""

    id: int
    scale: float | None = None


class LlamaGenerationBody(StructuredBody, kw_only=True):
    """What /completion and /infill share."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "dynatemp_range": (0, 0.0),
        "dry_multiplier": (0, 0.0),
        "xtc_probability": (0, 0.0),
        "mirostat": (0,),
        "n_indent": (0,),
        "post_sampling_probs": (False,),
        "t_max_predict_ms": (0, -1),
    }
    IGNORED = (
        "dynatemp_exponent",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "xtc_threshold",
        "mirostat_tau",
        "mirostat_eta",
        "id_slot",
        "min_keep",
        "n_cache_reuse",
        "n_keep",
        "samplers",
        "sse_ping_interval",
    )

    OWN_NAMES: ClassVar[Mapping[str, str]] = {
        **{ours: theirs for ours, theirs in SAMPLING.items() if ours != theirs},
        "max_tokens": "n_predict",
        "n": "n_cmpl",
        "top_logprobs": "n_probs",
        "suffix": "input_suffix",
    }

    stream: bool | None = None
    n_predict: Annotated[int | None, Meta(description="Most tokens of the answer; -1 = until the end.")] = None
    n_cmpl: Annotated[int | None, Meta(description="How many answers to each prompt.")] = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int | None, Meta(description="-1 = another one each time.")] = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[
        Any, Meta(description="[[token id or text, bias], ..] or an object of them; a bias of false: never.")
    ] = None
    ignore_eos: bool | None = None
    n_probs: Annotated[int | None, Meta(description="How many likely tokens to tell for each.")] = None
    return_tokens: bool | None = None
    cache_prompt: Annotated[bool | None, Meta(description="false: nothing of an earlier request is reused.")] = None
    return_progress: Annotated[bool | None, Meta(description="Chunks tell how much of the prompt has been read.")] = (
        None
    )
    timings_per_token: Annotated[bool | None, Meta(description="Each chunk has timings.")] = None
    lora: Annotated[
        Annotated[list[LlamaAdapter], Meta(max_length=MAX_ADAPTERS)] | None,
        Meta(description="Adapters that answer, by their ids of /lora-adapters; those that are not listed do not."),
    ] = None
    # Each is split for each answer, in a stream in the event loop.
    response_fields: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=64)] | None = None

    def sampling(self) -> Sampling:
        values: dict[str, Any] = {ours: getattr(self, theirs) for ours, theirs in SAMPLING.items()}
        # Below zero both mean the same to llama-server as zero.
        for name in ("temperature", "top_k"):
            values[name] = values[name] and max(values[name], 0)
        values["seed"] = None if self.seed is not None and self.seed < 0 else self.seed
        return Sampling(**{name: value for name, value in values.items() if value is not None})

    def asked(self, llm: EdgeLLM, prompt: str | tuple[int, ...], cuts: tuple[int, ...] = ()) -> GenerationRequest:
        """The request to continue this prompt.

        Raises:
            UsageError: a value is out of range.
        """
        check_range((self.n_probs or 0) in range(MAX_TOP + 1), f"n_probs={self.n_probs}", f"0 to {MAX_TOP}")
        limit = self.n_predict
        check_range(limit is None or limit >= -2, f"n_predict={limit}", "1 or more; -1 and -2: until the end")
        top = self.n_probs or (0 if self.return_tokens else None)
        return GenerationRequest(
            prompt,
            msgspec.structs.replace(self.sampling(), logit_bias=_biases(self.logit_bias, llm)),
            None if limit is None or limit < 0 else limit,
            (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            cuts=cuts,
            ignore_eos=bool(self.ignore_eos),
            grammar=self.wanted_grammar(),
            top_logprobs=top,
            n=1 if self.n_cmpl is None else self.n_cmpl,
            progress=bool(self.stream and (self.return_progress or self.timings_per_token)),
            reuse=self.cache_prompt is not False,
            adapters=None if self.lora is None else _adapters(self.lora, llm),
        )


def within_repeats(requests: list[GenerationRequest]) -> list[GenerationRequest]:
    """The same requests.

    Raises:
        UsageError: the answers, each of which holds its prompt and the settings, would be too long together.
    """
    first = requests[0]
    n_settings = sum(map(len, (*first.stop, first.grammar.text if first.grammar else "")))
    n_repeated = sum((len(one.prompt) + n_settings) * one.n for one in requests)
    if n_repeated > MAX_REPEATED:
        raise UsageError(
            f"{len(requests)} prompts with {first.n} answers each repeat {n_repeated} characters or tokens of the "
            f"request, more than come back at a time ({MAX_REPEATED})",
            hint="send several smaller requests",
            param="prompt" if first.n == 1 else "n_cmpl",
        )
    return requests


def _adapters(listed: list[LlamaAdapter], llm: EdgeLLM) -> AdapterSet:
    """
    Raises:
        UnknownAdapter: there is no such id.
    """
    loaded = llm.adapters
    for one in listed:
        if not 0 <= one.id < len(loaded):
            hint = f"ids are 0 to {len(loaded) - 1}" if loaded else "none is loaded"
            raise UnknownAdapter(f"there is no adapter {one.id}", hint=hint, param="lora", adapter=str(one.id))
    return tuple((loaded[one.id].name, 1.0 if one.scale is None else one.scale) for one in listed)


class LlamaCompletionBody(LlamaGenerationBody, kw_only=True):
    """POST /completion."""

    text_field = "prompt"
    example = '{"prompt": "..."}'

    prompt: Inputs

    def to_requests(self, llm: EdgeLLM) -> list[GenerationRequest]:
        prompts = inputs_of(self.prompt, "prompt")
        if not prompts or len(prompts) > MAX_INPUTS:
            raise UsageError(f"prompt holds {len(prompts)} texts", hint=f"send 1 to {MAX_INPUTS}", param="prompt")
        # The other fields are read once: a bias by text asks the model for its tokens.
        first = self.asked(llm, prompts[0])
        return within_repeats([first, *(msgspec.structs.replace(first, prompt=prompt) for prompt in prompts[1:])])


class ExtraText(Fields, kw_only=True):
    """Another file of the project."""

    text: str
    filename: str | None = None


class InfillBody(LlamaGenerationBody, kw_only=True):
    """POST /infill."""

    text_field = "input_prefix"
    example = '{"input_prefix": "...", "input_suffix": "..."}'

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[ExtraText], Meta(max_length=1024)] | None = None
    prompt: Annotated[str | None, Meta(description="What the answer begins with.")] = None

    def to_requests(self, llm: EdgeLLM) -> list[GenerationRequest]:
        """
        Raises:
            UnsupportedField: the model has no markers for it.
        """
        from edgellm.text.infill import infill_prompt

        before = "".join(f"{extra.text}\n" for extra in self.input_extra or ()) + self.input_prefix
        instead = "ask /completion, which needs no input_suffix"
        text, cuts = infill_prompt(llm.info, before, self.input_suffix, parse_special=False, without=instead)
        cuts = (*cuts, len(text)) if self.prompt else cuts
        return within_repeats([self.asked(llm, text + (self.prompt or ""), cuts)])


class TokenizeBody(RequestBody, kw_only=True):
    """POST /tokenize."""

    text_field = "content"
    example = '{"content": "..."}'

    content: str
    add_special: Annotated[bool | None, Meta(description="With those that the model wants around a prompt.")] = None
    parse_special: Annotated[bool | None, Meta(description="Whether `<|im_end|>` and the like are tokens; true.")] = (
        None
    )
    with_pieces: bool | None = None


class DetokenizeBody(RequestBody, kw_only=True):
    """POST /detokenize."""

    text_field = "tokens"
    example = '{"tokens": [1, 2]}'
    max_values = MAX_IDS
    OWN_NAMES: ClassVar[Mapping[str, str]] = {"ids": "tokens"}

    tokens: Annotated[list[int], Meta(max_length=MAX_IDS)]


def settings_of(request: GenerationRequest, drawn: Sampling, model: str, n_ctx: int) -> dict[str, Any]:
    """What an answer was asked for and drawn by, in llama-server's names."""
    settings: dict[str, Any] = {theirs: getattr(drawn, ours) for ours, theirs in SAMPLING.items()}
    limit = -1 if request.max_tokens is None else request.max_tokens
    return {
        "n_ctx": n_ctx,
        "model": model,
        "n_predict": limit,
        "max_tokens": limit,
        "seed": -1 if drawn.seed is None else drawn.seed,
        **settings,
        "stop": list(request.stop),
        "ignore_eos": request.ignore_eos,
        "n_probs": request.top_logprobs or 0,
        "grammar": request.grammar.text if request.grammar else "",
    }


def selected(answer: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """These fields of an answer by the names that were sent: `a/b` is the field b of a. What is missing is left out."""
    told: dict[str, Any] = {}
    for path in fields:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            told[path] = value
    return told


def _biases(value: Any, llm: EdgeLLM) -> tuple[tuple[int, float], ...]:
    """
    Raises:
        UsageError: not pairs of a token id, or a text for all of its tokens, and a bias.
    """
    if value is None:
        return ()
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or len(pairs) > MAX_BIASES:
        raise _wrong_bias(value)
    n_chars = sum(len(part) for pair in pairs if isinstance(pair, list | tuple) for part in pair if type(part) is str)
    check_range(n_chars <= MAX_BIASES * MAX_TOKEN_BYTES, "logit_bias", f"at most {MAX_BIASES} tokens")
    biases = [_bias(pair) for pair in pairs]
    tokens = _tokens(llm, list(dict.fromkeys(token for token, _ in biases if isinstance(token, str))))
    return tuple(
        (one, bias) for token, bias in biases for one in (tokens[token] if isinstance(token, str) else [token])
    )


def _tokens(llm: EdgeLLM, texts: list[str]) -> dict[str, list[int]]:
    """The distinct ones of each."""
    tokens: dict[str, list[int]] = {}
    n_tokens = 0
    for text, ids in zip(texts, tokenize_each(llm, texts), strict=True):
        tokens[text] = list(dict.fromkeys(ids))
        n_tokens += len(tokens[text])
        check_range(n_tokens <= MAX_BIASES, "logit_bias", f"at most {MAX_BIASES} tokens")
    return tokens


def _bias(pair: Any) -> tuple[int | str, float]:
    """
    Raises:
        UsageError: no pair of a token id, or a text, and a bias.
    """
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise _wrong_bias(pair)
    token, bias = pair
    if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) <= 10:
        token = int(token)
    if bias is not False and type(bias) not in (int, float):
        raise _wrong_bias(pair)
    check_range(NEVER <= bias <= -NEVER, "logit_bias", f"biases {NEVER:g} to {-NEVER:g}")  # a float has an end
    weight = NEVER if bias is False else float(bias)
    if type(token) not in (int, str):
        raise _wrong_bias(pair)
    return token, weight


def _wrong_bias(value: Any) -> UsageError:
    what = f"logit_bias: {shortened(value)} is no pair of a token id and a bias"
    return UsageError(what, hint="send [[42, -1.5], [43, false]]", param="logit_bias")
