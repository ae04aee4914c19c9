"""A converted folder run by onnxruntime alone, without the engine."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime


class Session:
    """`logits(tokens)` of one sequence, with as many rows as asked for; cached tokens are kept between calls."""

    def __init__(self, folder, *, threads=1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # it warns that num_logits can be overridden, which is what it is for
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self.config = json.loads((folder / "config.json").read_text())
        self.clear()

    def clear(self):
        config = self.config
        empty = np.zeros((1, config["num_key_value_heads"], 0, config["head_dim"]), np.float32)
        self.cache = [empty] * (2 * config["num_hidden_layers"])

    def logits(self, tokens, rows=None):
        names = [f"{n}.{what}" for n in range(self.config["num_hidden_layers"]) for what in ("key", "value")]
        n_past = self.cache[0].shape[2]
        feeds = {f"past_key_values.{name}": values for name, values in zip(names, self.cache, strict=True)}
        feeds["input_ids"] = np.asarray([tokens], np.int64)
        feeds["attention_mask"] = np.ones((1, n_past + len(tokens)), np.int64)
        if rows is not None:
            feeds["num_logits"] = np.asarray([rows], np.int64)
        logits, *self.cache = self.session.run(["logits", *(f"present.{name}" for name in names)], feeds)
        return logits[0]
