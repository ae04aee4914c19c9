"""Kinds of tokens, and which of them end an answer: decided by name, as llama.cpp does (llama-vocab.cpp).

Files name one end token at most; chat models end their turns with others. So their names are the only common sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class TokenKind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # read only where a template wrote it, never shown
    USER_DEFINED = 4  # read wherever it stands, shown as it is
    UNUSED = 5
    BYTE = 6  # written <0xNN>


END_NAMES = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
})  # fmt: skip
# Tokens for filling in the middle of code. Those of the second table also end an answer.
_FILL_NAMES = {
    "fim_pre": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
                "<|code_prefix|>", "<|prefix|>"),
    "fim_suf": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
                "<|code_suffix|>", "<|suffix|>"),
    "fim_mid": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
                "<|code_middle|>", "<|middle|>"),
}  # fmt: skip
_FILL_END_NAMES = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
# gpt-oss writes its channels with these; they are shown.
_SHOWN_NAMES = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


def end_tokens(ids: Mapping[str, int], kinds: list[int], roles: Mapping[str, int]) -> frozenset[int]:
    """Ids that end an answer. `roles` are those that the file names: "eos", "eot", "eom", "fim_pad", ...

    Tokens whose names say so become control tokens in `kinds`.
    """
    ends = {roles[role] for role in ("eos", "eot", "eom") if role in roles}
    for role, names in (_FILL_NAMES | _FILL_END_NAMES).items():
        token = roles.get(role)
        if token is None:
            token = min((ids[name] for name in names if name in ids), default=None)
            if token is None:
                continue
            kinds[token] = TokenKind.CONTROL
        if role in _FILL_END_NAMES:
            ends.add(token)
    for name in END_NAMES & ids.keys():
        ends.add(ids[name])
        kinds[ids[name]] = TokenKind.CONTROL
    for name in _SHOWN_NAMES:
        if name in ids:
            kinds[ids[name]] = TokenKind.USER_DEFINED
    _take_back(ids, kinds, ends)
    return frozenset(ends)


def _take_back(ids: Mapping[str, int], kinds: list[int], ends: set[int]) -> None:
    """Names that end an answer in one family and do not in another."""
    names = {name for name, token in ids.items() if token in ends}
    harmony = {"<|return|>", "<|call|>"} <= names
    solar = "<|flush|>" in names and names & {"<|call|>", "<|calls|>"}
    if "<|end|>" in names and (harmony or solar):
        ends.discard(ids["<|end|>"])
        kinds[ids["<|end|>"]] = TokenKind.USER_DEFINED
    if "</s>" in names and names & {"<|tool_response>", "<|plamo:eos|>"}:
        ends.discard(ids["</s>"])
        kinds[ids["</s>"]] = TokenKind.NORMAL
