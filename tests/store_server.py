"""A package index and a model hub on 127.0.0.1, small wheels, and ways for all of them to misbehave."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

from edgellm.model import ModelCard, ModelFile


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(package: str, members: dict[str, bytes], version: str = "1.0") -> bytes:
    """A wheel that pip accepts, with `members` inside."""
    info = f"{package.replace('-', '_')}-{version}.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in members.items()
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record)
    return out.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.owner.answer(self, body=True)

    def do_HEAD(self):
        self.server.owner.answer(self, body=False)

    def log_message(self, *args):
        pass

    def send(self, status, body, headers=(), *, with_body=True, cut=None):
        """An answer; `cut` sends only that many bytes of the body and hangs up."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True


class Server:
    """A threaded HTTP server; subclasses answer."""

    def __init__(self):
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.owner = self
        self._http.daemon_threads = True
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.asked: Counter[str] = Counter()
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def drip(self, request, body, seconds):
        """Send `body` over that many seconds, in fifty pieces."""
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        step = max(1, len(body) // 50)
        try:
            for begin in range(0, len(body), step):
                request.wfile.write(body[begin : begin + step])
                self.asked["pieces"] += 1
                if self.closing.wait(seconds / 50):
                    return
        except OSError:
            pass  # the client went away, as some tests want


class Index(Server):
    """A simple index. `mode` is how files are sent: "well", "hang", "cut", or seconds to send them in."""

    def __init__(self):
        super().__init__()
        self.wheels: dict[str, bytes] = {}
        self.mode: str | float = "well"

    def add(self, package, members, version="1.0"):
        """Publish; return the wheel's sha256."""
        data = wheel(package, members, version)
        self.wheels[f"{package.replace('-', '_')}-{version}-py3-none-any.whl"] = data
        return sha256(data)

    def answer(self, request, *, body):
        path = request.path
        self.asked[path] += 1
        name = path.rpartition("/")[2]
        if self.mode == "hang":
            self.closing.wait(30)
        elif path.startswith("/simple/"):
            package = path.split("/")[2].replace("-", "_")
            links = "".join(f'<a href="/files/{n}">{n}</a>' for n in self.wheels if n.startswith(f"{package}-"))
            request.send(200 if links else 404, links.encode(), {"Content-Type": "text/html"}, with_body=body)
        elif name not in self.wheels:
            request.send(404, b"", with_body=body)
        elif self.mode == "cut":
            request.send(200, self.wheels[name], cut=len(self.wheels[name]) // 2)
        elif self.mode == "well":
            request.send(200, self.wheels[name], with_body=body)
        else:
            self.drip(request, self.wheels[name], float(self.mode))


class HubServer(Server):
    """What huggingface_hub needs of a hub: the file tree, and resolve with HEAD and Range."""

    commit: ClassVar[str] = "c" * 40

    def __init__(self):
        super().__init__()
        self.files: dict[str, bytes] = {}  # "owner/repo/path" -> content
        self.etags: dict[str, str] = {}  # a lie instead of the sha256
        self.mode: str | float = "well"

    def answer(self, request, *, body):
        path = request.path.partition("?")[0]
        self.asked[f"{request.command} {path}"] += 1
        if path == "/":
            return request.send(200, b"", with_body=body)
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            prefix = f"{parts[2]}/{parts[3]}/"
            tree = [
                {"type": "file", "path": name.removeprefix(prefix), "size": len(data), "oid": "0" * 40,
                 "lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 100}}
                for name, data in self.files.items() if name.startswith(prefix)
            ]  # fmt: skip
            if not tree:
                return request.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body=body)
            answer = tree if "/tree/" in path else {"id": prefix[:-1], "sha": self.commit, "siblings": []}
            return request.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, with_body=body)
        name = "/".join((*parts[:2], *parts[4:]))
        if name not in self.files:
            return request.send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=body)
        return self._file(request, name, body)

    def _file(self, request, name, body):
        data = self.files[name]
        etag = f'"{self.etags.get(name, sha256(data))}"'
        headers = {"X-Repo-Commit": self.commit, "ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(data)),
                   "Accept-Ranges": "bytes"}  # fmt: skip
        asked = request.headers.get("Range")
        if not body:
            return request.send(200, data, headers, with_body=False)
        if self.mode in ("cut-once", "cut-once-no-range") and not asked and self.asked["cut"] == 0:
            self.asked["cut"] += 1
            return request.send(200, data, headers, cut=len(data) // 2)
        if self.mode == "cut-once-no-range":
            asked = None
        if isinstance(self.mode, float):
            return self.drip(request, data, self.mode)
        if asked:
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            return request.send(206, data[begin:], headers)
        return request.send(200, data, headers)


def card_of(file, model_id="tiny"):
    return ModelCard(model_id, "tiny", "chat", "mit", 256, 1, 1, None, (file,))


FETCH = """
import json, sys
from edgellm.errors import EdgeLLMError
from edgellm.model import ModelCard, ModelFile
from edgellm.store.library import Library
given = json.loads(sys.argv[1])
file = ModelFile(**given)
card = ModelCard("tiny", "tiny", "chat", "mit", 256, 1, 1, None, (file,))
try:
    artifact = Library().fetch(card, file, lambda done, total, what: print("progress", done, total, what, flush=True))
    print("artifact", artifact.path, flush=True)
except EdgeLLMError as error:
    print("error", error.code, error.message, flush=True)
"""


def start_fetch(file: ModelFile, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A process that fetches `file` into the same store."""
    given = json.dumps({name: getattr(file, name) for name in ("source", "quant", "bytes", "sha256")})
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, given],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {}),
    )  # fmt: skip


def wait_for(condition, seconds=10.0):
    """Whether `condition()` came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def names_below(folder: Path) -> list[str]:
    """Every file in the store but locks, relative."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts]
    return sorted(str(path.relative_to(folder)) for path in found)
