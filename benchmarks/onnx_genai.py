"""onnxruntime-genai's half of `onnx_engine.py`: run by a Python that has it, with a line of JSON for each round."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime_genai as og


def main() -> None:
    folder, threads, n_ctx = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config = og.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    for line in sys.stdin:
        asked = json.loads(line)
        model = og.Model(config)
        generator = _generator(model, n_ctx)
        generator.append_tokens(np.array(asked["tokens"][:16], np.int32))
        generator = _generator(model, n_ctx)
        tokens = np.array(asked["tokens"], np.int32)
        started = time.perf_counter()
        generator.append_tokens(tokens)
        prefill = time.perf_counter() - started
        # The logits of the prompt are there: the first call only chooses a token.
        generator.generate_next_token()
        started = time.perf_counter()
        for _ in range(asked["answer"]):
            generator.generate_next_token()
        decode = (time.perf_counter() - started) / asked["answer"]
        print(json.dumps([prefill, decode]), flush=True)


def _generator(model: og.Model, n_ctx: int) -> og.Generator:
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=n_ctx, min_length=n_ctx, do_sample=False)
    return og.Generator(model, params)


if __name__ == "__main__":
    main()
