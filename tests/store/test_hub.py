"""Against a server that answers as the hub does. Each case is a process: huggingface_hub reads its settings once."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import gguf_writer
from support.refusals import refuses
from support.store_server import names_below, sha256, start_fetch
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import DiskFull, SourceError, SourceUnreachable, UnknownModel, UsageError
from edgellm.store.names import parts_of
from edgellm.store.sources import hub as hub_source
from edgellm.store.sources.hub import _hub_errors
from edgellm.store.sources.hub_files import HubUri, choose_files, firsts, parse_hub_uri
from edgellm.types.model import ModelFile

PROBE = """
from edgellm.store.sources.hub import Hub
print(Hub().reachable(5.0))
"""


@pytest.fixture
def environment(hub, tmp_path, monkeypatch):
    """Variables that point huggingface_hub at the server and at a cache of its own."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    changed = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2",
    }  # fmt: skip
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    return changed


def fetched(file):
    """(last line in words, every line) of a process that fetches `file`."""
    out, err = start_fetch(file).communicate(timeout=PATIENCE_S)
    lines = out.splitlines()
    assert lines, err
    return lines[-1].split(" ", 2), lines


def blobs(tmp_path):
    return [path for path in (tmp_path / "hf").rglob("blobs/*") if path.is_file()]


def test_one_file(hub, environment, model_bytes, own_home, tmp_path):
    hub.files["o/r/sub/m-Q8_0.gguf"] = model_bytes
    file = ModelFile("hf://o/r/sub/m-Q8_0.gguf", "Q8_0", bytes=len(model_bytes), sha256=sha256(model_bytes))

    (kind, path), lines = fetched(file)[0], fetched(file)[1]

    assert kind == "artifact"
    assert Path(path).read_bytes() == model_bytes
    assert Path(path).is_relative_to(tmp_path / "hf")
    assert [name.rpartition("/")[2] for name in names_below(own_home / "data" / "models")] == ["stored.json"]
    assert hub.asked["GET /o/r/resolve/main/sub/m-Q8_0.gguf"] == 1
    assert not any(line.startswith("progress") for line in lines)


def test_progress_ends_at_the_whole(hub, environment, model_bytes, own_home):
    hub.files["o/r/m.gguf"] = model_bytes

    _, lines = fetched(ModelFile("hf://o/r/m.gguf", "Q8_0"))

    told = [line.split(" ", 3)[1:] for line in lines if line.startswith("progress") and "checking" not in line]
    assert told[-1] == [str(len(model_bytes)), str(len(model_bytes)), "tiny Q8_0"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "full"), DiskFull),
        (OSError(errno.EDQUOT, "full"), DiskFull),
        (OSError(errno.EFBIG, "File too large"), UsageError),
        (PermissionError(errno.EACCES, "Permission denied", "/hub/blobs"), UsageError),
        (ConnectionResetError(errno.ECONNRESET, "reset"), SourceUnreachable),
    ],
)
def test_what_cannot_be_written_is_no_network_s_fault(error, kind):
    with refuses(kind), _hub_errors("hf://o/r/m.gguf"):
        raise error


def split(hub, folder):
    """Publish a model of two parts, and decoys."""
    for no in range(2):
        keys = [("split.no", gguf_writer.UINT16, no), ("split.count", gguf_writer.UINT16, 2)]
        tensors = [gguf_writer.Tensor(f"t{no}", (64,), gguf_writer.F32, 256)]
        made = gguf_writer.Gguf([*(gguf_writer.model_keys() if no == 0 else []), *keys], tensors)
        hub.files[f"o/r/{folder}/m-Q4_K_M-{no + 1:05d}-of-00002.gguf"] = made.build()
    hub.files["o/r/m-Q8_0.gguf"] = gguf_writer.model().build()
    hub.files["o/r/mmproj-Q4_K_M.gguf"] = b"no"
    hub.files["o/r/README.md"] = b"Q4_K_M"


def test_a_quantization_is_chosen_and_all_its_parts_come(hub, environment, own_home):
    split(hub, "Q4_K_M")

    (kind, path), _ = fetched(ModelFile("hf://o/r:Q4_K_M", "Q4_K_M"))

    assert kind == "artifact"
    assert sorted(os.listdir(Path(path).parent)) == ["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"]


def test_an_onnx_graph_comes_with_all_it_needs(hub, environment, own_home):
    files = {
        "onnx/model_q4.onnx": b"graph", "onnx/model_q4.onnx_data": b"weights", "onnx/model_fp16.onnx": b"other",
        "onnx/model_fp16.onnx_data": b"other weights", "config.json": b"{}", "tokenizer.json": b"{ }", "README.md": b"",
    }  # fmt: skip
    hub.files |= {f"o/r/{name}": data for name, data in files.items()}

    (kind, path), _ = fetched(ModelFile("hf://o/r/onnx/model_q4.onnx", "INT4", "onnx"))

    assert kind == "artifact"
    assert Path(path).read_bytes() == b"graph"
    root = Path(path).parents[1]
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert there == {"onnx/model_q4.onnx", "onnx/model_q4.onnx_data", "config.json", "tokenizer.json"}


def test_of_an_onnx_graph_that_is_not_there_the_others_are_named(hub, environment, own_home):
    hub.files |= {"o/r/onnx/model_q4.onnx": b"graph"}

    (kind, code, message), _ = fetched(ModelFile("hf://o/r/onnx/model.onnx", "F32", "onnx"))

    assert (kind, code) == ("error", "unknown_model")
    assert "o/r has no onnx/model.onnx" in message


@pytest.mark.parametrize(
    ("uri", "code", "says"),
    [
        ("hf://o/r:Q2_K", "unknown_model", "no file of quantization Q2_K"),
        ("hf://o/none:Q4_K_M", "unknown_model", "does not exist"),
        pytest.param("hf://o/r/none.gguf", "unknown_model", "does not exist", marks=pytest.mark.slow(1)),
        ("hf://o/r/README.md", "bad_artifact", "not a GGUF file: it is plain text"),
    ],
)
def test_what_is_not_there_is_told(hub, environment, own_home, uri, code, says):
    split(hub, "x")

    (kind, error_code, message), _ = fetched(ModelFile(uri, "Q4_K_M"))

    assert (kind, error_code) == ("error", code)
    assert says in message


@pytest.mark.parametrize("lie", ["catalog-sha", "catalog-bytes", "etag"])
def test_a_wrong_file_is_refused_and_forgotten(hub, environment, model_bytes, own_home, tmp_path, lie):
    hub.files["o/r/m.gguf"] = model_bytes
    if lie == "etag":
        hub.etags["o/r/m.gguf"] = "1" * 64
    promised = {"catalog-sha": {"sha256": "0" * 64}, "catalog-bytes": {"bytes": 77}, "etag": {}}[lie]

    (kind, code, _), _ = fetched(ModelFile("hf://o/r/m.gguf", "Q8_0", **promised))

    assert (kind, code) == ("error", "integrity_error")
    assert names_below(own_home / "data" / "models") == []
    assert blobs(tmp_path) == []


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("n_asked", [1, 2])
def test_a_hub_that_names_a_path_as_an_etag_writes_and_deletes_nothing_there(
    hub, environment, model_bytes, own_home, tmp_path, n_asked, is_there
):
    hub.files["o/r/m.gguf"] = model_bytes
    victim = tmp_path / "victim" / "mine.txt"
    victim.parent.mkdir()
    if is_there:
        victim.write_text("mine")
    before = names_below(tmp_path / "victim")
    hub.later_etags["o/r/m.gguf"] = (n_asked, "../" * 16 + str(victim).lstrip("/"))

    kind = fetched(ModelFile("hf://o/r/m.gguf", "Q8_0"))[0][0]

    assert kind == ("error" if n_asked == 1 else "artifact")
    assert names_below(tmp_path / "victim") == before
    assert not is_there or victim.read_text() == "mine"


def test_a_hub_whose_commit_is_a_path_is_refused(hub, environment, model_bytes, own_home, tmp_path, monkeypatch):
    hub.files["o/r/m.gguf"] = model_bytes
    monkeypatch.setattr(hub, "commit", "../../../victim", raising=False)

    (kind, code, _), _ = fetched(ModelFile("hf://o/r/m.gguf", "Q8_0"))

    assert (kind, code) == ("error", "source_error")
    assert not list(tmp_path.rglob("victim*"))


def test_a_file_that_is_replaced_while_it_is_fetched_has_not_the_hash_of_the_old_one(
    hub, environment, model_bytes, own_home, tmp_path
):
    hub.files["o/r/m.gguf"] = model_bytes
    hub.later["o/r/m.gguf"] = replaced = model_bytes[:-5] + b"other"
    file = ModelFile("hf://o/r/m.gguf", "Q8_0", bytes=len(model_bytes), sha256=sha256(model_bytes))

    (kind, code, _), _ = fetched(file)

    assert (kind, code) == ("error", "integrity_error")
    assert sha256(replaced) not in [blob.name for blob in blobs(tmp_path)]
    assert names_below(own_home / "data" / "models") == []


def test_the_cache_serves_without_a_network(hub, environment, model_bytes, own_home, monkeypatch):
    hub.files["o/r/m-Q8_0.gguf"] = model_bytes
    file = ModelFile("hf://o/r:Q8_0", "Q8_0")
    assert fetched(file)[0][0] == "artifact"
    for stored in (own_home / "data" / "models").rglob("stored.json"):
        stored.unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    n_requests = hub.asked.total()

    assert fetched(file)[0][0] == "artifact"
    assert hub.asked.total() == n_requests


def test_what_the_cache_has_not_is_unreachable_offline(hub, environment, model_bytes, own_home, monkeypatch):
    hub.files["o/r/m-Q8_0.gguf"] = model_bytes
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")

    assert fetched(ModelFile("hf://o/r:Q8_0", "Q8_0"))[0][:2] == ["error", "source_unreachable"]
    assert fetched(ModelFile("hf://o/r/m-Q8_0.gguf", "Q8_0"))[0][:2] == ["error", "source_unreachable"]
    assert not hub.asked


@pytest.mark.parametrize("mode", ["cut-once", pytest.param("cut-once-no-range", marks=pytest.mark.slow(1))])
def test_a_hub_that_hangs_up_in_the_middle(hub, environment, model_bytes, own_home, mode):
    hub.files["o/r/m.gguf"] = model_bytes
    hub.mode = mode

    (kind, path), _ = fetched(ModelFile("hf://o/r/m.gguf", "Q8_0", sha256=sha256(model_bytes)))

    assert kind == "artifact"
    assert Path(path).read_bytes() == model_bytes
    assert hub.asked["cut"] == 1


def test_sigkill_in_mid_download_leaves_nothing_and_the_next_fetch_succeeds(
    hub, environment, model_bytes, own_home, tmp_path
):
    hub.files["o/r/m.gguf"] = model_bytes
    hub.mode = 300.0  # more than any machine takes to kill a process
    file = ModelFile("hf://o/r/m.gguf", "Q8_0", bytes=len(model_bytes), sha256=sha256(model_bytes))
    process = start_fetch(file)
    # The client writes 10 MB at a time: what it has received is known at the other end only.
    wait_until(lambda: blobs(tmp_path) and hub.asked["pieces"])
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert [name for name in names_below(own_home / "data" / "models") if name.endswith("stored.json")] == []

    hub.mode = "well"
    assert fetched(file)[0][0] == "artifact"


def probe():
    ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return ran.stdout.removesuffix("\n")


def test_reachable(hub, environment):
    assert probe() == ""


def test_what_one_endpoint_did_not_answer_is_not_said_of_another(monkeypatch):
    from huggingface_hub import constants

    asked = []

    def head(timeout_s):
        asked.append(constants.ENDPOINT)
        return "it is dead" if "dead" in constants.ENDPOINT else ""

    monkeypatch.delenv("EDGELLM_OFFLINE", raising=False)
    monkeypatch.setattr(hub_source, "_head", head)
    one, told = hub_source.Hub(), []
    for endpoint in ("http://dead", "http://live", "http://dead"):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        told.append(one.reachable(PATIENCE_S))

    assert (told, asked) == (["it is dead", "", "it is dead"], ["http://dead", "http://live"])


SLOW_IMPORT = """
import sys, time
class Slow:
    def find_spec(self, name, path, target=None):
        if name == "huggingface_hub":
            time.sleep(3.5)
            print("slow")
sys.meta_path.insert(0, Slow())
"""


@pytest.mark.slow(4)
def test_loading_the_client_is_not_counted_as_waiting_for_the_hub(hub, environment, monkeypatch):
    """A small Arm core takes longer to import the client than a hub may take to answer."""
    monkeypatch.setattr(sys.modules[__name__], "PROBE", SLOW_IMPORT + PROBE)

    assert probe() == "slow\n"


@pytest.mark.parametrize(
    "dead", ["refused", "proxy", "unknown name", pytest.param("never answers", marks=pytest.mark.slow(3)), "offline"]
)
def test_not_reachable_is_said(hub, environment, monkeypatch, dead):
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # accepts by the kernel, and nobody ever answers
        endpoint = {
            "refused": "http://127.0.0.1:9",
            "proxy": "http://192.0.2.1",
            "unknown name": "http://hub.invalid",
            "never answers": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "offline": hub.url,
        }[dead]
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        if dead == "offline":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("EDGELLM_ALLOW_HTTP", "1")
        if dead == "proxy":
            monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
        reason = probe().strip()

    assert reason
    says = {
        "refused": "(http://127.0.0.1:9) cannot be reached: ",
        "proxy": "(http://192.0.2.1) cannot be reached through the proxy http://127.0.0.1:9: ",
        "unknown name": "(http://hub.invalid) cannot be reached: ",
    }
    assert says.get(dead, "") in reason
    assert dead != "never answers" or "did not answer within 3 s" in reason or "timed out" in reason


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("hf://o/r/a/b.gguf", HubUri("o/r", None, "a/b.gguf", "")),
        ("hf://o/r.v2:Q4_K_M", HubUri("o/r.v2", None, "", "Q4_K_M")),
        ("hf://o/r@main/b.gguf", HubUri("o/r", "main", "b.gguf", "")),
        ("hf://o/r@v1.0:Q8_0", HubUri("o/r", "v1.0", "", "Q8_0")),
        ("hf://o/r", HubUri("o/r", None, "", "")),
    ],
)
def test_parse(uri, parsed):
    assert parse_hub_uri(uri) == parsed


@pytest.mark.parametrize(
    "uri", ["hf://o", "hf://o/r/", "hf://o/r:", "hf://../r/x", "hf://o/r/../../x", "hf:o/r/x", "hf://o/r/a?b"]
)
def test_malformed_sources_are_refused(uri):
    with refuses(SourceError):
        parse_hub_uri(uri)


@pytest.mark.parametrize(
    ("quant", "chosen"),
    [
        ("Q4_K_M", ["m-Q4_K_M.gguf"]),
        ("q4_k_m", ["m-Q4_K_M.gguf"]),
        ("Q8_0", ["big/m-Q8_0-00001-of-00002.gguf", "big/m-Q8_0-00002-of-00002.gguf"]),
        ("F16", ["m.F16.gguf"]),
        ("BF16", ["m-BF16.gguf"]),
    ],
)
def test_choose(quant, chosen):
    names = [
        "README.md", "m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "mmproj-F16.gguf", "m.F16.gguf",
        "m-BF16.gguf",
        "big/m-Q8_0-00001-of-00002.gguf", "big/m-Q8_0-00002-of-00002.gguf", "m.imatrix.gguf",
    ]  # fmt: skip
    assert choose_files(names, HubUri("o/r", None, "", quant)) == chosen


@pytest.mark.parametrize("quant", ["Q4_K", "Q4", "4_K_M", ".*"])
def test_a_part_of_a_name_is_no_quantization(quant):
    with refuses(UnknownModel):
        choose_files(["m-Q4_K_M.gguf"], HubUri("o/r", None, "", quant))


def test_a_repository_that_lacks_a_part():
    with refuses(SourceError):
        choose_files(["m-Q8_0-00001-of-00002.gguf"], HubUri("o/r", None, "", "Q8_0"))


def test_a_name_that_no_part_has_spoils_none_of_the_others():
    names = ["m-Q8_0-00001-of-99999.gguf", "m-Q8_0-00003-of-00002.gguf", "mm-Q8_0.gguf"]
    for quant in ("Q8_0", ""):
        assert choose_files(names, HubUri("o/r", None, "", quant)) == ["mm-Q8_0.gguf"]
    assert firsts(names) == ["mm-Q8_0.gguf"]
    with refuses(UnknownModel):
        choose_files(names[:2], HubUri("o/r", None, "", "Q8_0"))


def test_parts_of():
    assert parts_of("m.gguf") == ["m.gguf"]
    assert parts_of("a/m-00002-of-00003.gguf") == [f"a/m-{no:05d}-of-00003.gguf" for no in (1, 2, 3)]
    with refuses(SourceError):
        parts_of("m-00001-of-99999.gguf")
