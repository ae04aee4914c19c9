"""Numbers that nothing has, in what a backend says of itself: a rate of 0 is divided by, far from here."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterator
from itertools import pairwise

from msgspec import structs

from edgellm.contract.backend import Device, Offload
from edgellm.types.model import ModelFacts
from edgellm.types.plan import Footprint
from edgellm.types.priors import Priors, ProviderRate, Repacking

MOST_BYTES = 2**60
_RATES = (1e-9, 1e9)  # of 1e9 weights per second, and of factors


def out_of_range(given: object) -> str:
    """The first of them: `"devices[0].total_bytes is -1, 0 to 2**60 is expected"`; "" = none. All is of the types that
    its class says."""
    if isinstance(given, Repacking) and given.row_multiple < 1:
        return f"row_multiple is {given.row_multiple}, 1 or more is expected"
    problems: Iterator[str] = iter(())
    if isinstance(given, Footprint):
        problems = _sizes(structs.asdict(given))
    elif isinstance(given, ModelFacts):
        shape = {} if given.shape is None else dataclasses.asdict(given.shape)
        problems = _sizes(dataclasses.asdict(given) | {f"shape.{name}": size for name, size in shape.items()})
    elif isinstance(given, Offload):
        problems = _of_devices(given.devices)
    elif isinstance(given, Priors):
        problems = _of_rates(given)
    return next(problems, "")


def _sizes(fields: dict[str, object]) -> Iterator[str]:
    for name, size in fields.items():
        if isinstance(size, int) and not 0 <= size <= MOST_BYTES:
            yield f"{name} is {reprlib.repr(size)}, 0 to 2**60 is expected"


def _of_devices(devices: tuple[Device, ...]) -> Iterator[str]:
    names: set[str] = set()
    for at, device in enumerate(devices):
        if not device.name.strip() or not device.name.isprintable():
            yield f"devices[{at}].name is {device.name!r}, a line of text is expected"
        if device.name.lower() in names:
            yield f"devices[{at}].name is {device.name!r}, which another has"
        names.add(device.name.lower())
        sizes = {"total_bytes": device.total_bytes, "free_bytes": device.free_bytes}
        yield from _sizes({f"devices[{at}].{name}": size for name, size in sizes.items()})


def _of_rates(priors: Priors) -> Iterator[str]:
    for kind, rate in priors.rates.items():
        for name, number in structs.asdict(rate).items():
            if not _RATES[0] <= number <= _RATES[1]:
                yield f"rates[{kind!r}].{name} is {number:g}, a rate is expected"
    for key, provider in priors.providers.items():
        yield from _of_provider(f"providers[{key!r}].rate", provider.rate)


def _of_provider(path: str, rate: ProviderRate | None) -> Iterator[str]:
    for name in ("decode", "prefill"):
        factors = None if rate is None else getattr(rate, name)
        if factors is not None:
            bounds = (_RATES[0], *factors, _RATES[1])
            if not all(low <= high for low, high in pairwise(bounds)):
                yield f"{path}.{name} is {factors}, three rising numbers above 0 are expected"
