"""OpenAI's Python client against `edgellm serve`. `python docs/examples/openai_client.py [ADDRESS]`

Needs `pip install openai` and a server that runs: `edgellm serve`.
"""

import os
import sys

import openai

address = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8642"
with openai.OpenAI(base_url=f"{address}/v1", api_key=os.environ.get("EDGELLM_API_KEY", "none")) as client:
    stream = client.chat.completions.create(
        model="default",  # whatever is served
        messages=[{"role": "user", "content": "Say hello in French."}],
        max_tokens=40,
        stream=True,
        extra_body={"min_p": 0.05},  # fields that OpenAI does not have
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
