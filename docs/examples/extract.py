"""Facts from a sentence, as a pydantic object (`pip install pydantic`). `python docs/examples/extract.py [MODEL]`"""

import sys

from pydantic import BaseModel, Field

from edgellm import EdgeLLM, EdgeLLMError, IncompleteAnswer


class Order(BaseModel):
    article: str = Field(max_length=30)
    pieces: int = Field(ge=0, le=1000)
    urgent: bool


TEXT = "Please send us 12 bicycle lamps, we need them tomorrow."
# The answer is kept to the schema, but only the question tells the model what is wanted.
QUESTION = f"Write this order as JSON with the fields article, pieces and urgent.\n\n{TEXT}"

try:
    with EdgeLLM.load(sys.argv[1] if sys.argv[1:] else "smollm2-135m-instruct") as llm:
        print(llm.chat(QUESTION, schema=Order, temperature=0, max_tokens=400))
except IncompleteAnswer as error:
    sys.exit(f"the answer was cut off: {error.text}")
except EdgeLLMError as error:
    sys.exit(f"Error: {error}")
