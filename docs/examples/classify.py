"""What a letter is about, and how sure the model is. `python docs/examples/classify.py [MODEL]`"""

import json
import math
import sys

from edgellm import EdgeLLM, EdgeLLMError, Grammar, Message

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


def probability(llm: EdgeLLM, question: Message, kind: str) -> float:
    """Of that word, among all that the model could write: the product of those of its tokens."""
    only = Grammar("choice", json.dumps([kind]))
    answer = llm.chat([*conversation, question], grammar=only, temperature=0, top_logprobs=0)
    return math.exp(sum(token.chosen.logprob for token in answer.logprobs))


try:
    with EdgeLLM.load(sys.argv[1] if sys.argv[1:] else "smollm2-135m-instruct") as llm:
        for letter in LETTERS:
            question = Message("user", f"Letter: {letter}\nKind:")
            among_all = {kind: probability(llm, question, kind) for kind in KINDS}
            best = max(KINDS, key=among_all.__getitem__)
            # It must be one of these, so their shares of what they have together count.
            share = among_all[best] / sum(among_all.values())
            print(f"{best:<9} {share:>4.0%}  {letter}")
except EdgeLLMError as error:
    sys.exit(f"Error: {error}")
