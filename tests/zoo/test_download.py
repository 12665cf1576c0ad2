"""Downloads from a local server: cached, checked, resumed, and every failure its own line."""

from __future__ import annotations

import hashlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ggdjax._errors import ModelError
from ggdjax.data import default_cache_dir
from ggdjax.zoo._download import download

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; ``stop_after`` breaks the answer off there, ``ranges`` says whether it can resume."""

    stop_after: int | None = None
    ranges = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/folder/net.bin?download=true"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        begin = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin : self.server.stop_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GGDJAX_CACHE", str(tmp_path / "cache"))
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once(server):
    seen = []
    path = download(server.url, SHA256.upper(), lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert path.parent == default_cache_dir()
    assert path.name.endswith("-net.bin")
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert download(server.url, SHA256) == path
    assert len(server.asked) == 1


def test_several_at_once_fetch_it_once(server):
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: download(server.url, SHA256), range(4)))
    assert [path.read_bytes() for path in paths] == [CONTENT]
    assert len(server.asked) == 1


def test_a_damaged_copy_is_fetched_again(server):
    path = download(server.url, SHA256)
    path.write_bytes(CONTENT[:-1])
    assert download(server.url, SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(server, ranges):
    server.stop_after, server.ranges = 100_000, ranges
    with pytest.raises(ModelError, match=r"broke off.*100,000 of 256,000.*call again to resume"):
        download(server.url, SHA256)
    assert not list(default_cache_dir().glob("*.bin"))
    server.stop_after = None
    assert download(server.url, SHA256).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]
    assert not list(default_cache_dir().glob("*.part"))


def test_all_bytes_were_there_before_the_rename(server):
    path = download(server.url, SHA256)
    path.rename(path.with_name(path.name + ".part"))
    assert download(server.url, SHA256).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={len(CONTENT)}-"


def test_another_checksum_is_refused_and_the_file_discarded(server):
    with pytest.raises(ModelError, match=f"has the SHA-256 {SHA256}, expected {'0' * 64}"):
        download(server.url, "0" * 64)
    assert not list(default_cache_dir().iterdir())


def test_refusals_and_no_network(server):
    with pytest.raises(ModelError, match="refused by the server: 404"):
        download(server.url.replace("/folder", "/missing"), SHA256)
    # Nothing listens on the discard port.
    with pytest.raises(ModelError, match=r"cannot be reached.*check the network, or fetch the file yourself"):
        download("http://127.0.0.1:9/net.bin", SHA256)


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GGDJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be kept in .*set GGDJAX_CACHE"):
        download(server.url, SHA256)


@pytest.mark.parametrize(
    ("url", "sha256", "message"),
    [("file:///etc/hosts", SHA256, "`url` is 'file:"), ("http://x/y", "abc", "`sha256` is 'abc', expected 64")],
)
def test_addresses_and_checksums_that_are_none(url, sha256, message):
    with pytest.raises(ModelError, match=message):
        download(url, sha256)
