"""Redirects are judged by the address they lead to, on the connected socket: with public and private addresses of a
network of one's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from support.waiting import PATIENCE_S

from edgellm.store import nearness
from edgellm.store.nearness import Nearness

PUBLIC, PRIVATE = "93.184.216.34", "10.1.2.3"


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("127.0.0.1", Nearness.HERE), ("127.9.9.9", Nearness.HERE), ("::1", Nearness.HERE), ("0.0.0.0", Nearness.HERE),
        ("::", Nearness.HERE), ("::ffff:127.0.0.1", Nearness.HERE), ("64:ff9b::7f00:1", Nearness.HERE),
        ("169.254.169.254", Nearness.HERE), ("fe80::1%eth0", Nearness.HERE), ("::ffff:169.254.169.254", Nearness.HERE),
        ("10.0.0.1", Nearness.PRIVATE), ("192.168.1.1", Nearness.PRIVATE), ("100.64.0.1", Nearness.PRIVATE),
        ("fd00::1", Nearness.PRIVATE), ("64:ff9b::a00:1", Nearness.PRIVATE), ("198.18.0.1", Nearness.PRIVATE),
        ("8.8.8.8", Nearness.PUBLIC), ("2606:4700::1111", Nearness.PUBLIC), ("::ffff:8.8.8.8", Nearness.PUBLIC),
    ],
)  # fmt: skip
def test_of_an_address(address: str, place: Nearness) -> None:
    assert nearness.of_address(address) is place


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "::1"])
def test_of_a_host_that_is_this_machine(host: str) -> None:
    assert nearness.of_host(host) is Nearness.HERE


def test_of_a_host_that_nobody_here_knows() -> None:
    assert nearness.of_host("a..b") is Nearness.PUBLIC


# In a network of its own: servers at a public, a private and this machine's address. The path says where to redirect.
REDIRECTS = """
import json, os, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from edgellm.errors import SourceError, EdgeLLMError
from edgellm.store import http

seen = []
class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        _, _, target = self.path.partition("/to/")
        if target:
            self.send_response(302)
            self.send_header("Location", target)
        else:
            seen.append(self.headers["Host"])
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

for place in ("127.0.0.1", "93.184.216.34", "10.1.2.3", "169.254.169.254"):
    threading.Thread(target=ThreadingHTTPServer((place, 8000), Server).serve_forever, daemon=True).start()
outcomes = {}
for origin, target in json.loads(sys.argv[1]):
    seen.clear()
    try:
        http.get(f"http://{origin}:8000/to/http://{target}:8000/x", tries=1).close()
        outcomes[f"{origin} {target}"] = "answered"
    except EdgeLLMError as error:
        assert not seen, seen
        outcomes[f"{origin} {target}"] = f"{type(error).__name__}: {error.message}"
print(json.dumps(outcomes))
"""
NETWORK = (
    "ip link set lo up && for place in 93.184.216.34 10.1.2.3 169.254.169.254; do ip addr add $place/32 dev lo; done"
)


def redirected(pairs: list[tuple[str, str]], **environment: str) -> dict[str, str]:
    unshare = ["unshare", "--map-root-user", "--net", "sh", "-c", f'{NETWORK} && exec "$@"', "sh"]
    tools = shutil.which("unshare") and shutil.which("ip")
    if not tools or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network of one's own can be made here")
    command = [*unshare, sys.executable, "-c", REDIRECTS, json.dumps(pairs)]
    changed = [f"{name}={value}" for name, value in {"EDGELLM_ALLOW_HTTP": "1", **environment}.items()]
    done = subprocess.run(["env", *changed, *command], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_redirect_never_leads_nearer() -> None:
    here = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::ffff:127.0.0.1]", "169.254.169.254"]
    nearer = [(origin, target) for origin in (PUBLIC, PRIVATE) for target in here] + [(PUBLIC, PRIVATE)]
    outcomes = redirected(nearer)

    assert len(outcomes) == len(nearer)
    for pair, outcome in outcomes.items():
        assert outcome.startswith("SourceError: a redirect leads to "), (pair, outcome)


def test_a_redirect_may_lead_farther_or_as_far() -> None:
    places = [("127.0.0.1", place) for place in ("127.0.0.1", PRIVATE, PUBLIC)]
    farther = [*places, (PRIVATE, PRIVATE), (PRIVATE, PUBLIC), (PUBLIC, PUBLIC)]
    assert set(redirected(farther).values()) == {"answered"}


def test_through_a_proxy_names_are_judged_as_they_are_known_here() -> None:
    """The proxy is one of the servers: asked for a whole address, it redirects to what stands behind `to/`."""
    proxy = {"http_proxy": f"http://{PRIVATE}:8000", "no_proxy": ""}
    (outcome,) = redirected([(PUBLIC, "127.1")], **proxy).values()
    assert outcome.startswith("SourceError: a redirect leads to ")
