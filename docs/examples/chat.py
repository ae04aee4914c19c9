"""One answer, whole. `python docs/examples/chat.py [MODEL]`; without MODEL the best one for this machine is chosen."""

import sys

from edgellm import EdgeLLM, EdgeLLMError

try:
    with EdgeLLM.load(sys.argv[1]) if sys.argv[1:] else EdgeLLM.auto() as llm:
        print(llm.explain(), file=sys.stderr)
        answer = llm.chat("Why is the sky blue?", max_tokens=100, temperature=0.7)
        print(answer.text)
        print(f"{answer.usage.completion_tokens} tokens, {answer.finish_reason}", file=sys.stderr)
except EdgeLLMError as error:
    sys.exit(f"Error: {error}")
