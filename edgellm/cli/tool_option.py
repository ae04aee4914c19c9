"""`--tool MODULE:FUNCTION`: a function that the user names, for a model to call."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from edgellm.errors import UsageError


def function_of(name: str) -> Callable[..., Any]:
    """It; a coroutine function as one that waits for the coroutine. Modules of the current folder are imported, too.

    Raises:
        UsageError: there is none, or importing the module fails.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise UsageError(f"--tool {name} is not MODULE:FUNCTION", hint="as in --tool weather:forecast", param="tool")
    if "" not in sys.path:
        sys.path.append("")  # last, so that a file there hides no module
    try:
        function: Any = importlib.import_module(module_name)
        for attribute in path.split("."):
            function = getattr(function, attribute)
    except Exception as error:  # whatever a module raises when it is imported
        what = f"--tool {name}: {type(error).__name__}: {error}"
        raise UsageError(what, hint="the module must be installed, or lie in this folder", param="tool") from error
    if not inspect.iscoroutinefunction(function):
        called: Callable[..., Any] = function
        return called

    @functools.wraps(function)
    def waited(**arguments: Any) -> Any:
        return asyncio.run(function(**arguments))

    return waited
