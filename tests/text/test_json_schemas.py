"""Answers under JSON schemas: with vocabularies in use, and with the suite that validators are tested with."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import llama_cpp as library
import numpy as np
import pytest
from support.json_schema_suite import Case, cases, spellings
from support.schemas import random_schema

from edgellm.builtin.echo import EchoEngine
from edgellm.errors import GrammarFailed, UsageError
from edgellm.text.matcher import GrammarCompiler, Matcher
from edgellm.text.sampling import Sampler
from edgellm.types.grammar import Grammar
from edgellm.types.plan import Settings
from edgellm.types.sampling import Sampling

N_SCHEMAS = 1_000
MAX_TOKENS = 1_000
# Draft 2020-12 reads a format as a remark. Here answers keep to it, so these are not accepted.
REMARK = "is only an annotation by default"
# What passes as a date or time though no calendar has it: 29 February in any year, leap seconds at any time.
LOOSE_FORMATS = {"date": 2, "date-time": 2, "time": 10}


@pytest.fixture(scope="module", params=["SmolLM2", "qwen2", "gemma-4"])
def vocabulary(request: pytest.FixtureRequest, smollm2: str, llama_cpp: Path) -> Iterator[tuple[Any, Any]]:
    """Tokenizer and what a compiler has to know of the engine, of a file's vocabulary alone."""
    from edgellm_gguf.tokenizer import LlamaTokenizer

    path = smollm2 if request.param == "SmolLM2" else str(llama_cpp / "models" / f"ggml-vocab-{request.param}.gguf")
    parameters = library.llama_model_default_params()
    parameters.vocab_only = True
    model = library.llama_model_load_from_file(path.encode(), parameters)
    vocab = library.llama_model_get_vocab(model)
    n_tokens = library.llama_vocab_n_tokens(vocab)
    ends = frozenset(token for token in range(n_tokens) if library.llama_vocab_is_eog(vocab, token))
    yield LlamaTokenizer(vocab), SimpleNamespace(vocab_size=n_tokens, eos_ids=ends)
    library.llama_model_free(model)


@pytest.mark.slow(120)
@pytest.mark.timeout(3000)
def test_random_schemas_with_vocabularies_in_use(vocabulary: tuple[Any, Any]) -> None:
    tokenizer, info = vocabulary
    compiler, rng, n_ended = GrammarCompiler(tokenizer, info, trusts=True), random.Random(11), 0
    noise = np.random.default_rng(11).normal(scale=2.0, size=info.vocab_size + MAX_TOKENS).astype(np.float32)
    for seed in range(N_SCHEMAS):
        schema = random_schema(rng)
        answer = _drawn(compiler.matcher(Grammar.of_schema(schema)), tokenizer, info, noise, seed)
        if answer is not None:
            jsonschema.validate(json.loads(answer), schema)
            n_ended += 1
    print(f"{n_ended} of {N_SCHEMAS} answers ended and are valid")
    assert n_ended >= 0.95 * N_SCHEMAS


def _drawn(matcher: Matcher, tokenizer: Any, info: Any, noise: Any, seed: int) -> bytes | None:
    """An answer over random logits, a window of the noise for each token; None where it did not end."""
    sampler, rng, answer = Sampler(Sampling(temperature=2.0, seed=seed)), random.Random(seed), b""
    for _ in range(MAX_TOKENS):
        start = rng.randrange(MAX_TOKENS)
        token = sampler.sample(noise[start : start + info.vocab_size], matcher)
        if token in info.eos_ids:
            return answer
        matcher.accept(token)
        answer += tokenizer.token_bytes(token)
        if matcher.complete:
            return answer
    return None


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    engine = EchoEngine(Settings(n_ctx=64))
    return GrammarCompiler(engine.tokenizer, engine.info, trusts=True)


def _accepts(matcher: Matcher, text: str) -> bool:
    """Whether the text, a token for each byte, is an answer."""
    try:
        for byte in text.encode():
            if matcher.complete:
                return False
            matcher.accept(byte)
    except GrammarFailed:
        return False
    return matcher.complete or bool(matcher.allows(np.array([256]))[0])


def _differences(case: Case, start: Matcher) -> list[tuple[str, bool]]:
    """Instances that are judged in another way than by the suite: what they show, and whether they are valid."""
    wrong = []
    for shows, instance, valid in case.instances:
        texts = islice(spellings(instance), 2_000)
        if any(_accepts(start.copy(), text) for text in texts) != valid:
            wrong.append((shows, valid))
    return wrong


@pytest.mark.slow(20)
def test_each_schema_of_the_suite_is_kept_to_or_refused(compiler: GrammarCompiler, json_schema_suite: Path) -> None:
    n_cases: Counter[str] = Counter()
    n_kept: Counter[str] = Counter()
    for case in cases(json_schema_suite):
        n_cases[case.keyword] += 1
        try:
            start = compiler.matcher(Grammar.of_schema(case.schema))
        except UsageError:
            continue
        n_kept[case.keyword] += 1
        wrong = [(shows, valid) for shows, valid in _differences(case, start) if not (valid and shows.endswith(REMARK))]
        assert not wrong, case
    print(f"{n_kept.total()} of {n_cases.total()} schemas are served, the others refused")
    for keyword, n in n_cases.items():
        print(f"{keyword:24}{n_kept[keyword]:4} of {n}")


@pytest.mark.slow(5)
def test_formats_are_kept_to(compiler: GrammarCompiler, json_schema_suite: Path) -> None:
    loose: Counter[str] = Counter()
    for case in cases(json_schema_suite / "optional" / "format"):
        try:
            start = compiler.matcher(Grammar.of_schema(case.schema))
        except UsageError:
            continue
        loose[case.keyword] += sum(not valid for _, valid in _differences(case, start))
    assert {keyword: n for keyword, n in loose.items() if keyword != "ecmascript-regex" and n} == LOOSE_FORMATS
