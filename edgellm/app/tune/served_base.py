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
        """Waits for neither: what needs no tokens can be done while the base loads."""
        self._session = WorkerSession(plan)
        self._templates = TemplateProcess(self._has_template)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.abandon()  # it only turned texts into tokens: nothing is lost
        self._session.join()
        self._templates.close()

    @property
    def info(self) -> EngineInfo:
        """Raises what loading raises."""
        return self._session.info

    def prompts(self) -> PromptBuilder | None:
        """None where the model has no template."""
        return PromptBuilder(self.info, self._templates.run) if self.info.chat_template is not None else None

    def _has_template(self) -> bool:
        try:
            return self.info.chat_template is not None
        except EdgeLLMError:  # it does not load, which is told where it is asked
            return False

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
