"""A conversation in the terminal; an empty line ends it. `python docs/examples/conversation.py [MODEL]`"""

import sys

from edgellm import Delta, EdgeLLM, EdgeLLMError

try:
    with EdgeLLM.load(sys.argv[1]) if sys.argv[1:] else EdgeLLM.auto() as llm:
        messages = [{"role": "system", "content": "Answer in one short sentence."}]
        while question := input("> "):
            messages.append({"role": "user", "content": question})
            answer = ""
            for event in llm.stream(messages, max_tokens=100, temperature=0.2):
                if isinstance(event, Delta):
                    print(event.text, end="", flush=True)
                    answer += event.text
            print()
            messages.append({"role": "assistant", "content": answer})
except EdgeLLMError as error:
    sys.exit(f"Error: {error}")
