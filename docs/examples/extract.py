"""Facts from a sentence, as a pydantic object (`pip install pydantic`). `python docs/examples/extract.py [MODEL]`"""

import sys

from pydantic import BaseModel, ConfigDict, Field

from edgellm import EdgeLLM, Grammar


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")  # no other fields in the answer

    article: str = Field(max_length=30)
    pieces: int = Field(ge=0, le=1000)
    urgent: bool


TEXT = "Please send us 12 bicycle lamps, we need them tomorrow."

with EdgeLLM.load(sys.argv[1] if sys.argv[1:] else "smollm2-135m-instruct") as llm:
    answer = llm.chat(
        f"Write this order as JSON with the fields article, pieces and urgent.\n\n{TEXT}",
        grammar=Grammar.of_schema(Order.model_json_schema()),
        temperature=0,
        max_tokens=200,
    )
    if answer.finish_reason == "length":
        sys.exit(f"the answer was cut off: {answer.text}")
    print(Order.model_validate_json(answer.text))
