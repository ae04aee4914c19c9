"""Right answers to easy questions by how the tokens are drawn: the questions, and what counts as right."""

from __future__ import annotations

# What a model of 135 million parameters can be expected to know. Written down before the first run; a change of a
# question or of what counts makes earlier figures void. Case does not matter.
QUESTIONS = (
    ("What is the capital of France?", r"\bParis\b"),
    ("What is the capital of Italy?", r"\bRome\b"),
    ("What is the capital of Japan?", r"\bTokyo\b"),
    ("How many days are in a week?", r"\b(seven|7)\b"),
    ("How many months are in a year?", r"\b(twelve|12)\b"),
    ("What is two plus two?", r"\b(four|4)\b"),
    ("What color is the sky on a clear day?", r"\bblue\b"),
    ("What is the opposite of hot?", r"\bcold\b"),
    ("Which planet do we live on?", r"\bEarth\b"),
    ("What is the common name of H2O?", r"\bwater\b"),
    ("Who wrote Romeo and Juliet?", r"\bShakespeare\b"),
    ("What is the largest ocean on Earth?", r"\bPacific\b"),
)
SEEDS = 30
MAX_TOKENS = 32  # of an answer; what comes later does not count
