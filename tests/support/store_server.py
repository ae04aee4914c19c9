"""A package index and a model hub on 127.0.0.1, small wheels, and ways for all of them to misbehave."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgellm.types.model import ModelCard, ModelFile


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

    def drip_headers(self, request):
        """Headers that come byte by byte, for half a minute; then they end well."""
        try:
            request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Slow: ")
            for _ in range(600):
                request.wfile.write(b"x")
                self.asked["header bytes"] += 1
                if self.closing.wait(0.05):
                    return
            request.wfile.write(b"\r\n\r\n")
        except OSError:
            pass


class Index(Server):
    """A simple index. `mode` is how files are sent: "well", "hang", "cut", "endless", or seconds to send them in.

    "unpacks" is of its pages: a few hundred kB of gzip that unpack to a thousand times that.
    """

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
        elif self.mode == "unpacks":
            page = gzip.compress(bytes(400_000_000), 1)
            request.send(200, page, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, with_body=body)
        elif path.startswith("/simple/"):
            package = path.split("/")[2].replace("-", "_")
            links = "".join(f'<a href="/files/{n}">{n}</a>' for n in self.wheels if n.startswith(f"{package}-"))
            request.send(200 if links else 404, links.encode(), {"Content-Type": "text/html"}, with_body=body)
        elif name not in self.wheels:
            request.send(404, b"", with_body=body)
        elif self.mode == "cut":
            request.send(200, self.wheels[name], cut=len(self.wheels[name]) // 2)
        elif self.mode == "endless":
            self.send_on(request)
        elif self.mode == "well":
            request.send(200, self.wheels[name], with_body=body)
        else:
            self.drip(request, self.wheels[name], float(self.mode))

    def send_on(self, request, most_bytes=200_000_000):
        """Zeros without a length, until the client leaves; "sent" counts them."""
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        with contextlib.suppress(OSError):
            while self.asked["sent"] < most_bytes and not self.closing.is_set():
                request.wfile.write(bytes(1_000_000))
                self.asked["sent"] += 1_000_000


class HubServer(Server):
    """What huggingface_hub needs of a hub: the file tree, and resolve with HEAD and Range."""

    commit: ClassVar[str] = "c" * 40

    def __init__(self):
        super().__init__()
        self.files: dict[str, bytes] = {}  # "owner/repo/path" -> content
        self.etags: dict[str, str] = {}  # a lie instead of the sha256
        self.later_etags: dict[str, tuple[int, str]] = {}  # from the n-th time on that it is asked about
        self.later: dict[str, bytes] = {}  # what is there once it was asked about
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
        data, n_asked = self.files[name], self.asked[f"HEAD {request.path.partition('?')[0]}"]
        if n_asked > 1 or (body and n_asked):
            data = self.later.get(name, data)
        first, later_etag = self.later_etags.get(name, (n_asked + 1, ""))
        etag = f'"{later_etag if n_asked >= first else self.etags.get(name, sha256(data))}"'
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
from edgellm.types.model import ModelCard, ModelFile
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
    given = json.dumps({name: getattr(file, name) for name in ("source", "quant", "format", "bytes", "sha256")})
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, given],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {}),
    )  # fmt: skip


def names_below(folder: Path) -> list[str]:
    """Every file in the store but locks, relative."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts]
    return sorted(str(path.relative_to(folder)) for path in found)


@dataclass
class Seen:
    """One request as the server saw it."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    sent: int = 0  # bytes of body


class ModelServer(HubServer):
    """A hub, an Ollama registry and a plain file server in one, and the ways they fail.

    `files` are served as `/OWNER/REPO/resolve/...` (hub), `/files/OWNER/REPO/...` (plain) and as blobs of the registry,
    where `models` names them. `mode` is a fault of every answer that carries a file:

        no-range  cut  cut-once  longer  shorter  more  wrong-byte  html  gzip  hang  hang-midway  drip-headers
        a status ("404"), or a status and how often ("429*2")
    """

    chunk = 64 * 1024

    def __init__(self):
        super().__init__()
        self.models: dict[str, list[str]] = {}  # "library/tiny/1b" -> names of files
        self.seen: list[Seen] = []
        self.redirect = False  # answer with the address of another host, as hubs do
        self.pace_s = 0.0  # between chunks
        self.token = ""  # asked for at the hub's own address

    def body_bytes(self, since=0):
        """Bytes of files sent, of the requests from number `since` on."""
        return sum(seen.sent for seen in self.seen[since:])

    def ranges(self, since=0):
        return [seen.headers.get("range") for seen in self.seen[since:] if seen.method == "GET" and seen.sent]

    def answer(self, request, *, body):
        path = request.path.partition("?")[0]
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(request.command, headers.get("host", ""), request.path, headers)
        self.seen.append(seen)
        self.asked[f"{request.command} {path}"] += 1
        parts = path.strip("/").split("/")
        if parts[0] == "v2" and parts[-2] == "manifests":
            return self._manifest(request, "/".join((*parts[1:-2], parts[-1])), body)
        if parts[0] in ("files", "cdn", "v2") or (len(parts) > 3 and parts[2] == "resolve"):
            return self._fault(request, seen, parts, body)
        return super().answer(request, body=body)

    def _manifest(self, request, name, body):
        if self.mode[:3].isdigit():
            return self._status(request, body)
        if name not in self.models:
            return request.send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', with_body=body)
        layers = [{"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{'0' * 64}", "size": 3}]
        for file in self.models[name]:
            digest = self.etags.get(file, sha256(self.files[file]))
            size = len(self.files[file])
            layers.append(
                {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": size}
            )
        return request.send(200, json.dumps({"schemaVersion": 2, "layers": layers}).encode(), with_body=body)

    def _name(self, parts):
        """The file that a path names."""
        if parts[0] == "files":
            return "/".join(parts[1:])
        if parts[0] == "cdn" or parts[0] == "v2":
            digest = parts[-1].removeprefix("sha256:")
            return next((n for n, data in self.files.items() if self.etags.get(n, sha256(data)) == digest), "")
        return "/".join((*parts[:2], *parts[4:]))

    def _status(self, request, body):
        status, _, times = self.mode.partition("*")
        if times:
            self.mode = f"{status}*{int(times) - 1}" if int(times) > 1 else "well"
        codes = {"401": "GatedRepo", "403": "GatedRepo", "404": "EntryNotFound"}
        return request.send(
            int(status), b"no", {"X-Error-Code": codes.get(status, ""), "Retry-After": "0"}, with_body=body
        )

    def _fault(self, request, seen, parts, body):
        name = self._name(parts)
        if self.mode[:3].isdigit():
            return self._status(request, body)
        if self.mode == "hang" and body:
            return self.closing.wait(30)
        if self.mode == "drip-headers" and body:
            return self._drip_headers(request)
        if name not in self.files:
            return request.send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=body)
        is_hub = len(parts) > 3 and parts[2] == "resolve"
        if is_hub and self.token and seen.headers.get("authorization") != f"Bearer {self.token}":
            return request.send(401, b"", {"X-Error-Code": "GatedRepo"}, with_body=body)
        data = self.files[name]
        digest = self.etags.get(name, sha256(data))
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if is_hub:
            headers |= {
                "X-Repo-Commit": self.commit, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)),
            }  # fmt: skip
        if self.redirect and parts[0] != "cdn":
            port = self.url.rpartition(":")[2]
            address = {"Location": f"http://localhost:{port}/cdn/{digest}?X-Signature=s3cret"}
            return request.send(302, b"", headers | address, with_body=body)
        if not body:
            return request.send(200, data, headers, with_body=False)
        return self._send_file(request, seen, data, headers)

    def _send_file(self, request, seen, data, headers):
        asked = None if self.mode == "no-range" else seen.headers.get("range")
        total = len(data)
        if self.mode == "html":
            return request.send(200, b"<!DOCTYPE html><html>please log in</html>", {"Content-Type": "text/html"})
        if self.mode == "wrong-byte":
            data = data[:-7] + bytes([data[-7] ^ 1]) + data[-6:]
        total += {"longer": 1000, "shorter": -1000}.get(self.mode, 0)
        begin, end = 0, total
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(total, int(last) + 1 if last else total)
            if begin >= total:
                return request.send(416, b"", {"Content-Range": f"bytes */{total}"})
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{total}"
        if self.mode == "gzip":
            headers["Content-Encoding"] = "gzip"
        if self.mode == "more":
            data += b"more" * 1000
            request.close_connection = True
        else:
            headers["Content-Length"] = str(end - begin)
        request.send_response(206 if asked else 200)
        for key, value in headers.items():
            request.send_header(key, value)
        request.end_headers()
        if self.mode == "hang-midway" and begin >= total // 2:
            return self.closing.wait(30)
        return self._send_body(request, seen, data[begin : len(data) if self.mode == "more" else end])

    def _send_body(self, request, seen, body):
        hangs = self.mode == "hang-midway" and len(body) > 1000
        cut = len(body) // 2 + 1 if hangs else len(body)
        if self.mode == "cut" or (self.mode == "cut-once" and len(body) > 100_000 and self.asked["cut"] == 0):
            cut = len(body) // 2 if len(body) > 1000 else len(body)
            self.asked["cut"] += len(body) > 100_000
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.chunk)
        try:
            for at in range(0, cut, self.chunk):
                piece = body[at : min(cut, at + self.chunk)]
                seen.sent += len(piece)  # before it goes out: a client that has all of it may look at once
                request.wfile.write(piece)
                if self.pace_s and self.closing.wait(self.pace_s):
                    return None
        except OSError:
            seen.sent -= len(piece)  # the client went away, as some tests want
        if hangs:
            return self.closing.wait(30)
        if cut < len(body) or self.mode in ("longer", "more"):
            request.close_connection = True
        return None

    def _drip_headers(self, request):
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                if self.closing.wait(0.05):
                    return
        except OSError:
            pass
        request.close_connection = True
