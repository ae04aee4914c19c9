"""Requests that are the first of their kind, at the same time."""

from __future__ import annotations

import subprocess
import sys

MANY_TYPES = """
import sys, threading, types

sys.setswitchinterval(1e-6)
bodies = types.ModuleType("bodies")
sys.modules["bodies"] = bodies
source = '''
from __future__ import annotations
from edgellm.server.schemas.fields import Fields, RequestBody
''' + "".join(
    f'''
class Part{number}(Fields, kw_only=True):
    a: int | None = None
class Body{number}(RequestBody, kw_only=True):
    parts: list[Part{number}] | None = None
'''
    for number in range(60)
)
exec(source, bodies.__dict__)
for number in range(60):
    body, barrier = getattr(bodies, f"Body{number}"), threading.Barrier(6)

    def read():
        barrier.wait()
        assert body.read(b'{"parts": [{"a": 1}]}').parts[0].a == 1

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_bodies_are_read_in_several_threads_at_first() -> None:
    done = subprocess.run([sys.executable, "-c", MANY_TYPES], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
