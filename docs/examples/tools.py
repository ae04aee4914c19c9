"""A model that calls a function of the program before it answers. `python docs/examples/tools.py [MODEL]`"""

import sys
from typing import Annotated, Literal

from edgellm import EdgeLLM, EdgeLLMError, TooManyRounds

STOCK = {"lamp": 12, "bell": 0, "saddle": 3}


def pieces_in_stock(
    article: Annotated[Literal["lamp", "bell", "saddle"], "what is looked for"],
) -> int:
    """How many pieces of an article there are."""
    return STOCK[article]


try:
    with EdgeLLM.load(sys.argv[1] if sys.argv[1:] else "qwen3-0.6b") as llm:
        # A small model is made to look; "auto", the default, leaves that to the model.
        use = llm.use_tools(
            "How many saddles are there?",
            tools=[pieces_in_stock],
            tool_choice="required",
            parallel_tool_calls=False,
            rounds=4,
            timeout=300,
            temperature=0,
            max_tokens=200,
        )
except TooManyRounds as error:
    # Some small models call again and again: what they were told is there all the same.
    for result in error.results:
        print(f"{result.call.name} {result.call.arguments} -> {result.text}", file=sys.stderr)
    sys.exit(f"Error: {error}")
except EdgeLLMError as error:
    sys.exit(f"Error: {error}")
for result in use.results:
    print(f"{result.call.name} {result.call.arguments} -> {result.text}", file=sys.stderr)
print(use.answer.text)
