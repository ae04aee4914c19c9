"""Which of some notes answers a question: vectors of all, compared. `python docs/examples/embeddings.py [MODEL]`"""

import sys

from edgellm import EdgeLLM, EdgeLLMError

NOTES = (
    "The boiler is serviced every September by the firm in Mill Lane.",
    "Water the tomatoes in the morning, never in the evening.",
    "The spare key is with the neighbour on the second floor.",
)
QUESTION = "Who has the other key?"

try:
    # The vectors of this model have unit length, so a product of two is the cosine of their angle.
    with EdgeLLM.load(sys.argv[1] if sys.argv[1:] else "all-minilm-l6-v2") as llm:
        question, *notes = llm.embed([QUESTION, *NOTES])
        found = [(float(question @ note), text) for note, text in zip(notes, NOTES, strict=True)]
        for near, text in sorted(found, reverse=True):
            print(f"{near:.2f}  {text}")
except EdgeLLMError as error:
    sys.exit(f"Error: {error}")
