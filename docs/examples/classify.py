"""What a letter is about, and how sure the model is. `python docs/examples/classify.py [MODEL]`"""

import json
import math
import sys

from edgellm import EdgeLLM, Grammar, Message

KINDS = ["repair", "bill", "contract"]
SHOWN = (
    ("The tap in the kitchen drips.", "repair"),
    ("You took the money for May twice.", "bill"),
    ("I want to move out in July.", "contract"),
    ("A window is broken.", "repair"),
)
LETTERS = (
    "The heating has been cold since Monday, please send somebody to mend it.",
    "I was charged twice for March. When do I get the money back?",
    "We would like to stay for another year.",
)

# A few answered questions show a small model what is wanted better than an explanation does.
conversation = [
    message
    for letter, kind in SHOWN
    for message in (Message("user", f"Letter: {letter}\nKind:"), Message("assistant", kind))
]
one_of_them = Grammar("choice", json.dumps(KINDS))

with EdgeLLM.load(sys.argv[1] if sys.argv[1:] else "smollm2-135m-instruct") as llm:
    for letter in LETTERS:
        question = Message("user", f"Letter: {letter}\nKind:")
        answer = llm.chat([*conversation, question], grammar=one_of_them, temperature=0, top_logprobs=0)
        # The probability of the word is the product of those of its tokens.
        sure = math.exp(sum(token.chosen.logprob for token in answer.logprobs))
        print(f"{answer.text:<9} {sure:>4.0%}  {letter}")
