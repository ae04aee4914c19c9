"""What one client can do to the others: a server is attacked while a stream runs and `/health` is asked all the time.

    python benchmarks/attack.py [--model echo] [--json FILE] [--grammars]

For each attack: the longest wait for `/health`, the longest pause of the stream, what an honest request waits, how much
data the server takes meanwhile, and how much more memory server and worker hold afterwards, all beside a control run in
which nothing is sent. `--grammars`: the longest pause under schemas, grammars and tools that are made to be slow,
beside plain requests. It judges nothing: the tests in tests/server assert states, and these are figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from hostile_forms import hostile_forms

CONTROL_S = 5.0
SETTLE_S = 5.0  # the server gives memory back after two seconds
PROBE_EVERY_S = 0.02
START_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 120.0
HUNG_UP_AFTER_S = 0.5
MIB = 1024**2
ROUNDS = 5
REQUESTS_A_ROUND = 4
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ONE_BYTE = (b"Content-Length: 9000000\r\n\r\n", b" ")  # at a time
HUNDRED = b"64\r\n" + b" " * 100 + b"\r\n"
PADDED = b'{"messages":[{"role":"user","content":"x"}],"max_tokens":1,"pad":"%s"}' % (b"y" * 15_000)
WHOLE = b"Content-Length: %d\r\n\r\n%s" % (len(PADDED), PADDED)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
COMBINING = "e\u0301".encode() * 173_300  # 519,900 bytes
CHAT = b'{"messages":[{"role":"user","content":"x"}],'


@dataclass
class Row:
    """Of one attack; seconds and bytes."""

    attack: str
    seconds: float
    health_s: float  # the longest
    pause_s: float  # of the stream, the longest
    honest_s: float  # a request for one token right after the attack was sent
    server_s: float  # of processor time during the attack
    peak_bytes: int  # of the server's own data meanwhile, more than before
    server_bytes: int  # more than before
    worker_bytes: int


class Server:
    """A running `edgellm serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), ANSWER_TIMEOUT_S)

    def get(self, path: str) -> bytes:
        with self.connect() as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return _all_of(connection)

    def post(self, path: str, body: bytes) -> bytes:
        with self.connect() as connection:
            self.send(connection, path, body)
            return _all_of(connection)

    def send(self, connection: socket.socket, path: str, body: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def processor_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def data_bytes(self) -> int:
        """What the kernel counts against the server's limit; 0 where it does not tell."""
        with contextlib.suppress(OSError), Path(f"/proc/{self.process.pid}/status").open() as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), 0)
        return 0

    def memory(self) -> tuple[int, int]:
        """Resident bytes of the server and of its workers."""
        server = psutil.Process(self.process.pid)
        return server.memory_info().rss, sum(child.memory_info().rss for child in server.children(recursive=True))


def _all_of(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def serving(model: str, *more: str) -> Iterator[Server]:
    """Start, wait until the model is loaded, and stop."""
    command = [sys.executable, "-m", "edgellm", "serve", model, "--port", "0", "--slots", "2", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(line.split()[1] for line in process.stdout if line.startswith("Open "))
            server = Server(process, int(address.rpartition(":")[2]))
            deadline = time.monotonic() + START_TIMEOUT_S
            while not server.get("/health").startswith(b"HTTP/1.1 200"):
                if time.monotonic() > deadline:
                    raise SystemExit("the model did not load")
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()


class Watch:
    """Asks `/health` and reads streams until `stop`; keeps the longest waits since `reset`."""

    def __init__(self, server: Server, tokens: int) -> None:
        self._server = server
        self._tokens = tokens
        self._done = threading.Event()
        self.reset()
        self._threads = [
            threading.Thread(target=watch, daemon=True) for watch in (self._health, self._stream, self._data)
        ]
        for thread in self._threads:
            thread.start()

    def reset(self) -> None:
        self.health_s = self.pause_s = 0.0
        self.data_bytes = 0  # the most

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _data(self) -> None:
        while not self._done.wait(PROBE_EVERY_S):
            self.data_bytes = max(self.data_bytes, self._server.data_bytes())

    def _health(self) -> None:
        while not self._done.wait(PROBE_EVERY_S):
            began = time.monotonic()
            self._server.get("/health")
            self.health_s = max(self.health_s, time.monotonic() - began)

    def _stream(self) -> None:
        body = {"prompt": "x" * self._tokens, "max_tokens": self._tokens, "stream": True, "ignore_eos": True}
        while not self._done.is_set():
            with self._server.connect() as connection:
                self._server.send(connection, "/v1/completions", json.dumps(body).encode())
                connection.recv(65536)
                last = time.monotonic()
                while connection.recv(65536) and not self._done.is_set():
                    now = time.monotonic()
                    self.pause_s = max(self.pause_s, now - last)
                    last = now


def hung_up(server: Server, path: str, bodies: list[bytes]) -> None:
    """Send all at once, and close the connections without waiting for an answer."""

    def send(body: bytes) -> None:
        with contextlib.suppress(OSError), server.connect() as connection:
            server.send(connection, path, body)
            time.sleep(HUNG_UP_AFTER_S)

    _together([lambda body=body: send(body) for body in bodies])  # type: ignore[misc]


def answered(server: Server, path: str, body: bytes, clients: int = 1) -> None:
    """Send it from so many clients at once, and wait for the answers."""
    _together([lambda: server.post(path, body)] * clients)


def dripped(port: int, framing: bytes, piece: bytes) -> None:
    """Requests that go on in such pieces. In a process of its own, whose threads do not delay those that measure."""
    sender = multiprocessing.get_context("spawn").Process(target=_drip, args=(port, framing, piece))
    sender.start()
    sender.join()


def dripped_elsewhere(framing: bytes, piece: bytes) -> None:
    """The same, to a port where nobody reads: what clients on this machine take from the model, whoever is asked."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as nobody:
        dripped(nobody.getsockname()[1], framing, piece)


def _drip(port: int, framing: bytes, piece: bytes, clients: int = 16) -> None:
    """A client that is hung up on connects again."""
    _give_way()
    end = time.monotonic() + CONTROL_S

    def drip() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(HEAD + framing)
                while time.monotonic() < end:
                    connection.sendall(piece)

    _together([drip] * clients)


def _give_way() -> None:
    """Let this process compute last: a client on another machine would take none of this processor.

    Linux divides the processors among sessions first and looks at the priorities within each, so the session gets one.
    """
    if hasattr(os, "setsid"):
        os.setsid()
        os.nice(19)
        with contextlib.suppress(OSError):  # a Linux without such groups, or another system
            Path("/proc/self/autogroup").write_text("19", encoding="ascii")


def _together(calls: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def many(head: bytes, item: bytes, count: int, tail: bytes) -> bytes:
    return head + b",".join([item] * count) + tail


def names(head: bytes, value: bytes, count: int, tail: bytes) -> bytes:
    return head + b",".join(b'"%d":%s' % (index, value) for index in range(count)) + tail


def attacks(server: Server) -> dict[str, Callable[[], None]]:
    """Each by its name."""
    prompt = b'{"prompt":"%s"}' % (b"a" * (10 * MIB - 100))
    conversation = b'{"messages":[{"role":"user","content":"%s"}]}' % (b"a " * (5 * MIB - 100))
    chat, completions = "/v1/chat/completions", "/v1/completions"
    bodies = {
        "10 MB prompt": (completions, prompt),
        "10 MB message": (chat, conversation),
        "1,000,000 wrong messages": (chat, many(b'{"messages":[', b'{"x":1}', 1_000_000, b"]}")),
        "700,000 unknown fields": (chat, names(b"{", b"1", 700_000, b"}")),
        "700,000 biases": (chat, names(CHAT + b'"logit_bias":{', b"1", 700_000, b"}}")),
        "600,000 wrong biases": (chat, names(CHAT + b'"logit_bias":{', b'"x"', 600_000, b"}}")),
        "1,000,000 wrong documents": ("/v1/rerank", many(b'{"query":"a","documents":[', b"1", 1_000_000, b"]}")),
        "3,000,000 lists in user": (chat, many(CHAT + b'"user":[', b"[]", 3_000_000, b"]}")),
        "520,000 combining characters": ("/tokenize", b'{"content":"%s","with_pieces":true}' % COMBINING),
        "4,096 long messages": (
            chat,
            many(b'{"messages":[', b'{"role":"user","content":"%s"}' % (b"a" * 2000), 4096, b"]}"),
        ),
    }
    return {
        "10 clients, 10 MB prompts, hang up": lambda: hung_up(server, completions, [prompt] * 10),
        "60 clients, 10 MB prompts, hang up": lambda: hung_up(server, completions, [prompt] * 60),
        "16 clients elsewhere (control)": lambda: dripped_elsewhere(*ONE_BYTE),
        "16 clients, chunks of one byte": lambda: dripped(server.port, CHUNKED, b"1\r\n \r\n" * 20_000),
        "16 clients, chunks of 100 bytes": lambda: dripped(server.port, CHUNKED, HUNDRED * 1000),
        "16 clients, one byte at a time": lambda: dripped(server.port, *ONE_BYTE),
        "16 clients, one byte of headers": lambda: dripped(server.port, b"X: ", b"x"),
        "16 clients, requests sent ahead": lambda: dripped(server.port, WHOLE, HEAD + WHOLE),
        **{name: lambda path=path, body=body: answered(server, path, body) for name, (path, body) in bodies.items()},  # type: ignore[misc]
        "4 clients, 520,000 combining characters": lambda: answered(
            server, *bodies["520,000 combining characters"], clients=4
        ),
        "4 clients, 1,000,000 wrong messages": lambda: answered(server, *bodies["1,000,000 wrong messages"], clients=4),
    }


def grammars(server: Server, watch: Watch, only: str) -> None:
    """The longest pause of the stream under each, beside plain requests in the same number: median of five."""
    print(f"{'form':40}{'answer':>8}{'plain ms':>10}{'pause ms':>10}{'more ms':>9}   (medians of {ROUNDS})")
    for name, fields in hostile_forms().items():
        if only not in name:
            continue
        pauses: dict[bool, list[float]] = {False: [], True: []}
        status = ""
        for at in range(ROUNDS):
            for is_hostile in (False, True):
                watch.reset()
                for _ in range(REQUESTS_A_ROUND):
                    # A text of its own each time: what was compiled before is kept.
                    body = {"messages": [{"role": "user", "content": f"{name} {at}"}], "max_tokens": 48}
                    answer = server.post(
                        "/v1/chat/completions", json.dumps(body | (fields if is_hostile else {})).encode()
                    )
                    status = answer[9:12].decode()
                time.sleep(PROBE_EVERY_S)
                pauses[is_hostile].append(watch.pause_s * 1e3)
        more = statistics.median(hostile - plain for plain, hostile in zip(*pauses.values(), strict=True))
        plain, hostile = map(statistics.median, pauses.values())
        print(f"{name:40}{status:>8}{plain:10.1f}{hostile:10.1f}{more:9.1f}", flush=True)


def measure(server: Server, watch: Watch, name: str, attack: Callable[[], None]) -> Row:
    before, data_before = server.memory(), server.data_bytes()
    used_s = server.processor_s()
    watch.reset()
    began = time.monotonic()
    attack()
    seconds = time.monotonic() - began
    used_s = server.processor_s() - used_s
    peak_bytes = watch.data_bytes - data_before
    asked = time.monotonic()
    server.post("/v1/completions", b'{"prompt":"hello","max_tokens":1}')
    honest_s = time.monotonic() - asked
    time.sleep(SETTLE_S)
    after = server.memory()
    more = (after[0] - before[0], after[1] - before[1])
    return Row(name, seconds, watch.health_s, watch.pause_s, honest_s, used_s, peak_bytes, *more)


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack a server of your own, and measure what the others notice.")
    parser.add_argument("--model", default="echo", help="what is served (default: echo)")
    parser.add_argument("--tokens", type=int, default=1000, help="of each stream that is watched (default: 1000)")
    parser.add_argument("--threads", type=int, help="that the model computes with")
    parser.add_argument("--only", default="", help="only attacks whose names hold this")
    parser.add_argument(
        "--grammars", action="store_true", help="hostile schemas, grammars and tools in place of the rest"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file, too")
    arguments = parser.parse_args()
    if arguments.grammars:
        # A token a byte: so many tools fill a small context.
        more = ("--ctx", "65536") if arguments.model == "echo" else ()
        with serving(arguments.model, *more) as server:
            watch = Watch(server, arguments.tokens)
            grammars(server, watch, arguments.only)
            watch.stop()
        return
    rows = []
    head = f"{'attack':40}{'s':>7}{'health s':>10}{'pause s':>9}{'honest s':>10}{'server s':>10}"
    print(f"{head}{'peak MiB':>10}{'server MiB':>12}{'worker MiB':>12}")
    with serving(arguments.model, *(("--threads", str(arguments.threads)) if arguments.threads else ())) as server:
        watch = Watch(server, arguments.tokens)
        control = {"none (control)": lambda: time.sleep(CONTROL_S)}
        for name, attack in {**control, **attacks(server)}.items():
            if arguments.only not in name and name not in control:
                continue
            row = measure(server, watch, name, attack)
            rows.append(row)
            figures = (
                f"{row.seconds:7.2f}{row.health_s:10.3f}{row.pause_s:9.3f}{row.honest_s:10.3f}{row.server_s:10.2f}"
            )
            memory = f"{row.peak_bytes / MIB:10.1f}{row.server_bytes / MIB:12.1f}{row.worker_bytes / MIB:12.1f}"
            print(f"{name:40}{figures}{memory}", flush=True)
        watch.stop()
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
