"""The body of `/api/generate`, and the request that it becomes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from edgellm.sdk.client import EdgeLLM
from edgellm.server.dialects.ollama.body import OllamaGenerationBody
from edgellm.server.dialects.ollama.options import OllamaOptions
from edgellm.server.schemas.fields import NeutralValues
from edgellm.text.infill import infill_prompt
from edgellm.types.message import Message
from edgellm.types.request import GenerationRequest


class OllamaGenerateBody(OllamaGenerationBody, kw_only=True):
    """POST /api/generate."""

    text_field = "prompt"
    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "images": ([],),
        # A template is a program; the model's own is the only one that runs.
        "template": ("",),
        # No answer has one: a conversation goes on at /api/chat.
        "context": ([],),
        # Of models that draw.
        "width": (0,),
        "height": (0,),
        "steps": (0,),
    }

    prompt: Annotated[str | None, Meta(description="Empty or absent: see that the model is loaded.")] = None
    system: str | None = None
    suffix: Annotated[str | None, Meta(description="What comes after the answer; for models that fill in.")] = None
    raw: Annotated[bool | None, Meta(description="Continue the prompt as it stands, without a chat template.")] = None

    def to_requests(self, llm: EdgeLLM) -> list[GenerationRequest]:
        """The prompt as the one message of a chat, or as it stands; none where there is no prompt.

        Raises:
            UsageError: a value is out of range, with the name of its field; the model does not fill in; what
            `EdgeLLM.request` raises.
        """
        options = self.settled_options(llm)
        if not self.prompt and not self.suffix:
            return []
        if self.suffix:
            prompt, cuts = infill_prompt(llm.info, self.prompt or "", self.suffix, parse_special=False)
            return [self._plain(options, prompt, cuts)]
        if self.raw or (llm.info.chat_template is None and not self.system):
            return [self._plain(options, self.prompt or "")]
        return [self.asked(llm, options, self.conversation())]

    def conversation(self) -> list[Message]:
        system = [Message("system", self.system)] if self.system else []
        return [*system, Message("user", self.prompt or "")]

    def _plain(self, options: OllamaOptions, prompt: str, cuts: tuple[int, ...] = ()) -> GenerationRequest:
        return GenerationRequest(
            prompt,
            options.sampling(),
            options.limit(),
            options.stops(),
            grammar=self.wanted_grammar(),
            top_logprobs=self.alternatives(),
            cuts=cuts,
        )
