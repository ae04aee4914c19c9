"""Ends the worker where a thread of it computes for longer than the work at hand may take: files of a model can make
native code run for hours, and nothing in the process interrupts that.

The kernel counts the processor time of the thread and sends the signal itself. So it matters neither what native code
holds (Python's lock) nor how busy other threads and programs are. Linux only: elsewhere, and where a kernel has no such
timers, the parent notices what it can (`runtime.watchdog`).
"""

from __future__ import annotations

import ctypes
import functools
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from edgellm.runtime.memory_limit import on_device
from edgellm.runtime.work_bytes import work_bytes
from edgellm.runtime.worker_end import COMPUTES, READS_GRAMMAR, READS_TEXT

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo, Tokenizer
    from edgellm.types.plan import LaunchPlan

log = logging.getLogger("edgellm.runtime.processor_time")

T = TypeVar("T")

# All are seconds of one thread, far above what a slow board takes.
LOAD_S, LOADED_BYTES_S = 30.0, 10e6  # a vocabulary of 262,144 tokens, and bytes of files for each second more
TURN_S = 30.0  # whatever is computed between two looks at the inbox
STEPS = 50  # of the predicted length: threads that wait for each other on a busy machine spin for seconds a step
# Of a batch whose length nobody predicted: products of its tokens with all bytes, and of each token with the others.
BYTES_S, ATTENDED = 1e9, 1024
DEVICE_TIMES = 20  # drivers of GPUs compile, in a load and in the first steps
# Texts: what honest tokenizers take is in docs/adr/083. What one takes more is taken from `SPARE_S`, and grows again.
SPARE_S, TEXT_S, LETTER_S = 3.0, 0.02, 1e-4
GRAMMAR_S, GRAMMAR_TOKEN_S = 60.0, 2e-4  # for a grammar, and for each token of the vocabulary in tables


class _Event(ctypes.Structure):
    """struct sigevent (sigevent(3type)); 64 bytes on all of Linux."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_char * 48),
    )


class _Spec(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("again_s", "again_ns", "seconds", "nanoseconds"))


_SIGEV_SIGNAL = 0
_CLOCK_THREAD_CPUTIME_ID = 3


class ThreadTimer:
    """Of the thread that makes it, which alone uses it."""

    def __init__(self, name: str) -> None:
        """`name` of the signal that ends the process.

        Raises:
            OSError: there are no such timers here.
        """
        if sys.platform != "linux":
            raise OSError("only Linux has timers of a thread's processor time")
        self._library = _library()
        number = getattr(signal, name)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        event = _Event(None, int(number), _SIGEV_SIGNAL)
        self._id = ctypes.c_void_p()
        if self._library.timer_create(_CLOCK_THREAD_CPUTIME_ID, ctypes.byref(event), ctypes.byref(self._id)):
            raise OSError(ctypes.get_errno(), "the kernel has no timer of a thread's processor time")
        self._spec = _Spec()
        self._pointer = ctypes.byref(self._spec)

    def allow(self, seconds: float) -> None:
        """From now on so much, in place of what was allowed before; 0 = as much as it likes."""
        whole = int(seconds)
        self._spec.seconds, self._spec.nanoseconds = whole, int((seconds - whole) * 1e9)
        self._library.timer_settime(self._id, 0, self._pointer, None)


@functools.cache
def _library() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    # glibc had them in a library of their own until 2.34.
    return library if hasattr(library, "timer_create") else ctypes.CDLL("librt.so.1", use_errno=True)


class WorkTime:
    """For one worker. `load` to `batch` are for the thread that owns the engine, and each takes the place of the call
    before. Where `ends` is false, as in an app's own process, nothing is limited."""

    def __init__(self, plan: LaunchPlan | None = None, *, ends: bool = False) -> None:
        self._plan = plan
        self._ends = ends
        self._threads = threading.local()
        self._turn_s = TURN_S
        self._unpredicted_bytes = 0 if plan is None or plan.step_s else work_bytes(plan)
        if plan is not None:
            self._turn_s += STEPS * (plan.step_s or 0.0)
            self._turn_s *= DEVICE_TIMES if on_device(plan.settings) else 1
        if ends:
            for name in (COMPUTES, READS_TEXT, READS_GRAMMAR):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_DFL)  # the parent may ignore it

    def load(self, n_bytes: int) -> None:
        """A model or an adapter is loaded, of so many bytes."""
        times = DEVICE_TIMES if self._plan is not None and on_device(self._plan.settings) else 1
        self._allow(COMPUTES, times * (LOAD_S + n_bytes / LOADED_BYTES_S))

    def turn(self) -> None:
        """Requests are received, and a step computed."""
        self._allow(COMPUTES, self._turn_s)

    def batch(self, n_tokens: int, longest: int) -> None:
        """Texts become vectors: so many tokens, the padding counted, and the length of the longest."""
        self._allow(COMPUTES, self._turn_s + n_tokens * self._unpredicted_bytes / BYTES_S * (1 + longest / ATTENDED))

    def rest(self) -> None:
        """As long as it takes, until the next call."""
        self._allow(COMPUTES, 0.0)

    def text(self, n_letters: int, read: Callable[[], T]) -> T:
        """What `read` makes of a text, in any thread."""
        if not self._ends:
            return read()
        account = getattr(self._threads, "account", None)
        if account is None:
            account = self._threads.account = _Account(self._timer(READS_TEXT))
        account.begin(n_letters)
        try:
            return read()
        finally:
            account.end()

    def grammar(self, n_vocab: int, read: Callable[[], T]) -> T:
        """What `read` makes of a grammar, in any thread."""
        self._allow(READS_GRAMMAR, GRAMMAR_S + n_vocab * GRAMMAR_TOKEN_S)
        try:
            return read()
        finally:
            self._allow(READS_GRAMMAR, 0.0)

    def tokenizer(self, tokenizer: Tokenizer, info: EngineInfo) -> Tokenizer:
        """The same, within bounds."""
        return _TimedTokenizer(tokenizer, self, info.vocab_size) if self._ends else tokenizer

    def _allow(self, name: str, seconds: float) -> None:
        if self._ends and (timer := self._timer(name)) is not None:
            timer.allow(seconds)

    def _timer(self, name: str) -> ThreadTimer | None:
        """Of this thread."""
        try:
            timer: ThreadTimer | None = getattr(self._threads, name)
        except AttributeError:
            try:
                timer = ThreadTimer(name)
            except OSError as error:
                log.info("nothing limits the processor time of this thread: %s", error)
                timer = None
            setattr(self._threads, name, timer)
        return timer


class _Account:
    """What one thread may spend on texts."""

    def __init__(self, timer: ThreadTimer | None) -> None:
        self._timer = timer
        self._allowed_s = self._spare_s = SPARE_S
        self._began_s = 0.0

    def begin(self, n_letters: int) -> None:
        self._allowed_s = self._spare_s + TEXT_S + n_letters * LETTER_S
        self._began_s = time.thread_time()
        if self._timer is not None:
            self._timer.allow(self._allowed_s)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.allow(0.0)
        left_s = self._allowed_s - (time.thread_time() - self._began_s)
        # Never nothing: 0 would lift the limit.
        self._spare_s = max(TEXT_S, min(SPARE_S, left_s))


class _TimedTokenizer:
    """See `edgellm.contract.engine.Tokenizer`."""

    def __init__(self, tokenizer: Tokenizer, work_time: WorkTime, n_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._time = work_time
        self._n_vocab = n_vocab
        self.token_bytes = tokenizer.token_bytes  # asked for each token of an answer
        self.text = tokenizer.text

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        options = {"add_special": add_special, "parse_special": parse_special}
        return self._time.text(len(text), functools.partial(self._tokenizer.encode, text, **options))

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        return self._time.text(self._n_vocab, self._tokenizer.pieces)
