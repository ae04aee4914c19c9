"""Serving a slot: asked first, served then, and taken back where the service does not answer with it."""

from __future__ import annotations

import http.client
import shlex
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgellm.app.bundle import gate, serving
from edgellm.app.bundle.gate import GateCheck, GateOptions
from edgellm.app.bundle.install import changing
from edgellm.bundle import slot_check
from edgellm.bundle.slots import BundleSlot, Slots
from edgellm.contract.source import Progress
from edgellm.errors import UnfitSlot, UsageError
from edgellm.store.library import silent

URL = "http://127.0.0.1:8642"
_POLL_S = 0.25
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """What serves here, and how it is started anew."""

    restart: str  # a command; it returns once the old process has ended
    url: str = URL
    deadline_s: float = gate.DEADLINE_S
    watch_s: float = 10.0  # for so long it must stay healthy


@dataclass(frozen=True, slots=True)
class Activated:
    slot: BundleSlot
    checks: tuple[GateCheck, ...]  # () = it was served already


def activate(
    root: Path,
    name: str = "",
    options: GateOptions | None = None,
    service: Service | None = None,
    progress: Progress = silent,
) -> Activated:
    """Serve the slot of that name, once it passed the gate; "" = the one that is not served.

    Where an earlier call was ended before it saw the service well, the service is started anew and watched again. Where
    this one is told to end (SystemExit, Ctrl-C), what was served before is served again first.

    Raises:
        UnfitSlot: it failed at the gate, and what was served is; or the service failed with it, and was brought back.
        UnsupportedArtifact, BadArtifact: it is not whole. UsageError: the slots are being changed, or cannot be
        written; or the service is not where `service` says.
    """
    if service is not None:
        _address(service)
        _command(service)
    with changing(root) as two:
        slot, before = two.slot(name) if name else two.spare(), two.current()
        slot_check.require_whole(slot, progress)
        checks: tuple[GateCheck, ...] = ()
        if before is not None and before.name == slot.name:
            if service is None or not two.is_unproven(slot):
                return Activated(slot, ())
            before = two.before(slot)
        else:
            if service is not None and before is not None:
                _require_there(service, before, two)
            checks = _examined(two, slot, options or GateOptions(), progress, is_first=before is None)
        if service is None:
            two.activate(slot)
        else:
            progress(0, None, "starting the service with it")
            _take_over(two, slot, before, service)
    return Activated(slot, checks)


def _examined(
    two: Slots, slot: BundleSlot, options: GateOptions, progress: Progress, *, is_first: bool
) -> tuple[GateCheck, ...]:
    """
    Raises:
        UnfitSlot: it failed; where it was asked, `rollback` does not serve it either. BadArtifact, UnsupportedArtifact:
        it is damaged.
    """
    try:
        return gate.examined(slot, options, progress, is_first=is_first)
    except UnfitSlot as error:
        if any(check["name"] == "start" for check in error.checks):
            two.refused(slot)
        raise


def _require_there(service: Service, before: BundleSlot, two: Slots) -> None:
    """
    Raises:
        UsageError: what is served answers at another URL, so that nobody would see it well.
    """
    host, port = _address(service)
    who = "nothing"
    with suppress(OSError), socket.create_connection((host, port), timeout=_ANSWER_S):
        who = serving.stranger(two.all(), port)
    if who and (listening := serving.ports(before)):
        message = f"slot {before.name} is served at port {listening[0]}, and {who} answers at {service.url}"
        hint = f"say where the service answers: --url http://127.0.0.1:{listening[0]}"
        raise UsageError(message, hint=hint, param="url")


def _take_over(two: Slots, slot: BundleSlot, before: BundleSlot | None, service: Service) -> None:
    """
    Raises:
        UnfitSlot: the service does not become healthy, or does not stay so; what was served before is again.
    """
    sha256 = before.record.sha256 if before is not None and before.record is not None else ""
    try:
        two.activate(slot, instead_of=sha256)
        failed = _restarted(service)
        problem = f"the restart command failed: {failed}" if failed else _failing(service, slot)
        if not problem:
            two.proven(slot)
            return
    except (SystemExit, KeyboardInterrupt) as ending:
        try:
            back = _go_back(two, before, service)
        except (SystemExit, KeyboardInterrupt):
            back = "told a second time, so it was not seen whether the service is well now"
        ending.add_note(f"Told to end before slot {slot.name} was seen well: {back}.")
        raise ending from None
    if failed and before is not None and _still_answers(service, before, slot):
        two.activate(before, instead_of="", goes_back=True)
        two.proven(before)
        back = f"slot {before.name} is current again and still answers"
    else:
        two.refused(slot)
        back = _go_back(two, before, service)
    row = {"name": "service", "state": "failed", "value": None, "bound": service.deadline_s, "problem": problem}
    message = f"{problem}; {back}" if failed else f"the service does not answer: {problem}; {back}"
    hint = f"see why the command of --restart failed: {service.restart}" if failed else "see what it logs"
    raise UnfitSlot(message, hint=hint, checks=(row,))


def _go_back(two: Slots, before: BundleSlot | None, service: Service) -> str:
    """What is served now, in words."""
    if before is None or before.record is None:
        return "there is nothing to go back to"
    two.activate(before, instead_of="", goes_back=True)
    if failed := _restarted(service):
        state = _unwell(service, before).rstrip(",") or f"{service.url}/health is well"
        return f"slot {before.name} is current again, but was not started anew: {failed}, and {state}"
    if worse := _failing(service, before):
        return f"slot {before.name} is current again, and does not answer: {worse}"
    two.proven(before)
    return f"slot {before.name} is served again"


def _still_answers(service: Service, before: BundleSlot, slot: BundleSlot) -> bool:
    """Whether what was served before certainly goes on, and the slot was not even started."""
    port = _address(service)[1]
    return port in serving.ports(before) and port not in serving.ports(slot) and _is_healthy(service)


def _restarted(service: Service) -> str:
    """Why the command failed; "" = it ended well."""
    try:
        done = subprocess.run(
            _command(service), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=service.deadline_s, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{service.restart}: {error}"
    return f"{service.restart} ended with status {done.returncode}" if done.returncode else ""


def _failing(service: Service, slot: BundleSlot) -> str:
    """What is wrong with a service that was started anew; "" = it became healthy with the slot, and stayed so."""
    began = time.monotonic()
    while problem := _unwell(service, slot):
        if time.monotonic() - began > service.deadline_s:
            return f"{problem} after {service.deadline_s:g} s"
        time.sleep(_POLL_S)
    began = time.monotonic()
    while time.monotonic() - began < service.watch_s:
        if not _is_healthy(service):
            return f"{service.url}/health was well for {time.monotonic() - began:.1f} s only"
        time.sleep(_POLL_S)
    return _unwell(service, slot)


def _unwell(service: Service, slot: BundleSlot) -> str:
    """What is wrong now; "" = the slot answers, or what answers cannot be told from it."""
    if not _is_healthy(service):
        return f"{service.url}/health is not well"
    if who := serving.stranger([slot], _address(service)[1]):
        return f"{who} answers at {service.url}, and no process of slot {slot.name},"
    return ""


def _is_healthy(service: Service) -> bool:
    host, port = _address(service)
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _address(service: Service) -> tuple[str, int]:
    """
    Raises:
        UsageError: the URL is none of a service here.
    """
    try:
        parts = urlsplit(service.url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme != "http":
        raise UsageError(f"{service.url!r} is no URL", hint="write it as http://127.0.0.1:8642", param="url")
    return host, port


def _command(service: Service) -> list[str]:
    """
    Raises:
        UsageError: it is no command.
    """
    try:
        words = shlex.split(service.restart)
    except ValueError:  # a quote that nothing closes
        words = []
    if not words:
        hint = "write it as --restart 'systemctl restart edgellm'"
        raise UsageError(f"{service.restart!r} is no command", hint=hint, param="restart")
    return words
