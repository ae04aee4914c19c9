"""Two answers at the same time, token by token, from one model. `python docs/examples/stream_async.py [MODEL]`"""

import asyncio
import sys

from edgellm import Delta, EdgeLLM, EdgeLLMError


async def show(llm: EdgeLLM, question: str) -> None:
    text = ""
    async for event in llm.astream(question, max_tokens=60, temperature=0):
        if isinstance(event, Delta):
            text += event.text
        else:
            speed = event.timings.decode_tok_s(event.usage.completion_tokens)
            print(f"{question} -> {text} ({speed:.0f} tok/s)")


async def main() -> None:
    load = EdgeLLM.load if sys.argv[1:] else EdgeLLM.auto
    # Choosing and loading take a while: in a thread, so that the event loop goes on.
    async with await asyncio.to_thread(load, *sys.argv[1:], slots=2) as llm:
        await asyncio.gather(show(llm, "Name a planet."), show(llm, "Name a river."))


try:
    asyncio.run(main())
except EdgeLLMError as error:
    sys.exit(f"Error: {error}")
