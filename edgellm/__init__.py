"""EdgeLLM: the best language model that this machine runs well, and why.

    from edgellm import EdgeLLM

    with EdgeLLM.auto() as llm:
        print(llm.chat("Say hello in French.").text)

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm.errors import (
    ArtifactError,
    BackendError,
    BackendUnavailable,
    BadArtifact,
    BadTemplate,
    CacheFull,
    Closed,
    ContextOverflow,
    DiskFull,
    EdgeLLMError,
    ExpiredBundle,
    GrammarFailed,
    IncompleteAnswer,
    IntegrityError,
    InvalidAnswer,
    NothingFits,
    OlderBundle,
    Overloaded,
    PluginFailed,
    RunawayModel,
    RuntimeFailure,
    SecondBest,
    SourceError,
    SourceUnreachable,
    StepFailed,
    StoreUnwritable,
    TimedOut,
    TooManyRequests,
    TooManyRounds,
    Unauthorized,
    UnfitSlot,
    UnknownAdapter,
    UnknownModel,
    UnknownProfile,
    UnsupportedArtifact,
    UnsupportedField,
    UnsupportedTask,
    UntrustedBundle,
    UsageError,
    WorkerCrashed,
)
from edgellm.version import __version__

if TYPE_CHECKING:
    from edgellm.adaptation.worker import TuneStop
    from edgellm.sdk.client import EdgeLLM
    from edgellm.sdk.tuning import atune, plan_tuning, tune
    from edgellm.types.event import Completion, Delta, Done, Prefill
    from edgellm.types.grammar import Grammar
    from edgellm.types.message import Message, NamedTool, TextInput, Tool, ToolCall
    from edgellm.types.sampling import Sampling
    from edgellm.types.tuning import TuneEvaluation, TuneFinished, TuneProgress, TuneSample, TuneStarted
    from edgellm.types.tuning_options import Tuned, TunePreview

_HOMES = {
    "Completion": "edgellm.types.event",
    "Delta": "edgellm.types.event",
    "Done": "edgellm.types.event",
    "EdgeLLM": "edgellm.sdk.client",
    "Grammar": "edgellm.types.grammar",
    "Message": "edgellm.types.message",
    "NamedTool": "edgellm.types.message",
    "Prefill": "edgellm.types.event",
    "Sampling": "edgellm.types.sampling",
    "TextInput": "edgellm.types.message",
    "Tool": "edgellm.types.message",
    "ToolCall": "edgellm.types.message",
    "TuneEvaluation": "edgellm.types.tuning",
    "TuneFinished": "edgellm.types.tuning",
    "TuneProgress": "edgellm.types.tuning",
    "TuneSample": "edgellm.types.tuning",
    "TuneStarted": "edgellm.types.tuning",
    "TuneStop": "edgellm.adaptation.worker",
    "TunePreview": "edgellm.types.tuning_options",
    "Tuned": "edgellm.types.tuning_options",
    "atune": "edgellm.sdk.tuning",
    "plan_tuning": "edgellm.sdk.tuning",
    "tune": "edgellm.sdk.tuning",
}

__all__ = [
    "ArtifactError",
    "BackendError",
    "BackendUnavailable",
    "BadArtifact",
    "BadTemplate",
    "CacheFull",
    "Closed",
    "Completion",
    "ContextOverflow",
    "Delta",
    "DiskFull",
    "Done",
    "EdgeLLM",
    "EdgeLLMError",
    "ExpiredBundle",
    "Grammar",
    "GrammarFailed",
    "IncompleteAnswer",
    "IntegrityError",
    "InvalidAnswer",
    "Message",
    "NamedTool",
    "NothingFits",
    "OlderBundle",
    "Overloaded",
    "PluginFailed",
    "Prefill",
    "RunawayModel",
    "RuntimeFailure",
    "Sampling",
    "SecondBest",
    "SourceError",
    "SourceUnreachable",
    "StepFailed",
    "StoreUnwritable",
    "TextInput",
    "TimedOut",
    "TooManyRequests",
    "TooManyRounds",
    "Tool",
    "ToolCall",
    "TuneEvaluation",
    "TuneFinished",
    "TunePreview",
    "TuneProgress",
    "TuneSample",
    "TuneStarted",
    "TuneStop",
    "Tuned",
    "Unauthorized",
    "UnfitSlot",
    "UnknownAdapter",
    "UnknownModel",
    "UnknownProfile",
    "UnsupportedArtifact",
    "UnsupportedField",
    "UnsupportedTask",
    "UntrustedBundle",
    "UsageError",
    "WorkerCrashed",
    "__version__",
    "atune",
    "plan_tuning",
    "tune",
]


if not TYPE_CHECKING:  # an editor would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            import importlib

            return getattr(importlib.import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'edgellm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
