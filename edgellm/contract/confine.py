"""What a process gives up before native code reads a stranger's file in it. It is not a sandbox (docs/security.md)."""

from __future__ import annotations

import os
import signal
import sys

HELPER = "_EDGELLM_HELPER"  # variable of a helper that starts: the module that it is to run (`own_python.interpreter`)
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def confine() -> None:
    """From now on: no rights beyond those it has, no core file, and on Linux no life after its parent.

    The end of the parent means the end of the thread that started this process, so that thread must last.
    """
    os.environ.pop(HELPER, None)  # it runs; what it starts is another's
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        prctl, none = ctypes.CDLL(None).prctl, ctypes.c_ulong(0)
        prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), none, none, none)
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), none, none, none)
