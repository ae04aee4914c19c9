"""Runs a converter within bounds: of a file's tensors nobody knows the size before it is read."""

from __future__ import annotations

from edgellm.contract.converter import Conversion, Converted, Converter
from edgellm.contract.data_limit import limited_data
from edgellm.contract.source import Progress
from edgellm.errors import UnsupportedArtifact
from edgellm.units import show_size

# Converters hold some rows of a matrix; of a folder's master weights all of them, with 12 bytes for each.
LEAST_BYTES = 4 * 1024**3
TIMES_FILE = 2


def convert(converter: Converter, conversion: Conversion, progress: Progress) -> Converted:
    """What `converter` makes of it. On Linux it may allocate twice the source's bytes and 4 GiB, and no more than is
    available.

    Raises:
        UnsupportedArtifact: it takes more memory. Others: as `edgellm.contract.converter.Converter`.
    """
    import psutil

    asked = LEAST_BYTES + TIMES_FILE * conversion.source.bytes
    most = min(psutil.virtual_memory().available, asked)
    try:
        with limited_data(most):
            return converter(conversion, progress)
    except MemoryError:
        message = f"converting {conversion.source.path} takes more memory than {show_size(most)}"
        raise UnsupportedArtifact(message, hint="convert it on a machine with more memory, if it is sound") from None
