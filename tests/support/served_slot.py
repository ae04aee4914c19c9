"""What runs inside a root to ask an installed bundle: `python -c SCRIPT RUN PATH BODY`, for a slot's own Python."""

# Brings 127.0.0.1 up where the network is a new one and its own, serves, asks once, and ends the server.
SCRIPT = """
import contextlib, fcntl, json, socket, struct, subprocess, sys, time, urllib.request
with socket.socket() as any_socket, contextlib.suppress(PermissionError):
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, loopback, running
server = subprocess.Popen([sys.argv[1], "--port", "8642"], stdout=sys.stderr)
def asked(path, body=None):
    data = None if body is None else body.encode()
    request = urllib.request.Request("http://127.0.0.1:8642" + path, data, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))
while True:
    assert server.poll() is None, "the server ended"
    try:
        asked("/health")
        break
    except OSError:
        time.sleep(1)
print(json.dumps(asked(*sys.argv[2:])["choices"][0]))
server.terminate()
server.wait()
"""
