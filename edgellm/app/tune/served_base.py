"""The base as it is served, asked for its tokens: so what is learned are the ids that requests have."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from edgellm.contract.engine import EngineInfo
from edgellm.errors import EdgeLLMError
from edgellm.runtime.session import QueueSink
from edgellm.runtime.supervisor import WorkerSession
from edgellm.text.prompt import PromptBuilder
from edgellm.text.template_process import TemplateProcess
from edgellm.types.event import Tokens
from edgellm.types.plan import LaunchPlan
from edgellm.types.request import TokenizeRequest


class ServedBase:
    """A worker that holds the base, and the process in which its template runs, until the block ends."""

    def __init__(self, plan: LaunchPlan) -> None:
        """Raises what loading raises."""
        self._session = WorkerSession(plan)
        self._templates: TemplateProcess | None = None
        try:
            self.info: EngineInfo = self._session.info
        except BaseException:
            self._session.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
        if self._templates is not None:
            self._templates.close()

    def prompts(self) -> PromptBuilder | None:
        """None where the model has no template."""
        if self.info.chat_template is None:
            return None
        self._templates = self._templates or TemplateProcess()
        return PromptBuilder(self.info, self._templates.run)

    def encode(self, text: str, cuts: tuple[int, ...], *, add_bos: bool, parse_special: bool) -> Sequence[int]:
        """The tokens of a request with these values (`adaptation.rendering.Encode`).

        Raises:
            UsageError: it is longer than any request. WorkerCrashed.
        """
        sink = QueueSink()
        self._session.submit(TokenizeRequest(text, cuts, parse_special, add_bos), sink)
        answer = sink.get()
        if isinstance(answer, EdgeLLMError):
            raise answer
        assert isinstance(answer, Tokens)
        return answer.ids
