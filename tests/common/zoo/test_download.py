"""Downloads from a real server that misbehaves: the file ends complete and verified, or it is not there."""
import fcntl
import hashlib
import http.client
import io
import os
import pty
import random
import socket
import struct
import subprocess
import sys
import termios
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from common.base.errors import InputError
from common.zoo.download import DownloadError, download, extract_member
from common.zoo.hashes import Hash
from tests.conftest import ROOT
from tests.http_server import Answer, Server, serving

TENTH = 1 << 16
CONTENT = random.Random(0).randbytes(10 * TENTH)
SHA1 = Hash("sha1", hashlib.sha1(CONTENT).hexdigest())
WRONG = bytes(len(CONTENT))


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy but the test's own."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    with serving(Server(CONTENT)) as running:
        yield running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "weights.params"


def partial_of(path):
    return path.with_name(f".{path.name}.partial")


def complete(path):
    return path.read_bytes() == CONTENT and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("tenth", range(0, 10, 3))
def test_cut_anywhere_it_goes_on(server, path, tenth):
    server.answers = [Answer(cut=tenth * TENTH)]
    assert download([server.url], path, SHA1, len(CONTENT)) == path
    assert complete(path) and server.requests == [None, f"bytes={tenth * TENTH}-" if tenth else None]


@pytest.mark.parametrize("answer", [
    Answer(status=500), Answer(status=429, headers=(("Retry-After", "0"),)), Answer(stall=5 * TENTH), Answer(stall=0),
    Answer(cut=TENTH, chunked=True)], ids=str)
def test_what_passes_is_tried_again(server, path, answer):
    server.answers = [answer, Answer(cut=TENTH), answer]
    download([server.url], path, SHA1, len(CONTENT), timeout=0.4)
    assert complete(path)


def test_a_server_that_does_not_recover_is_given_up(server, path):
    server.answers = [Answer(status=502)] * 2
    with pytest.raises(DownloadError, match=f"^{server.url}: HTTP 502 Bad Gateway$"):
        download([server.url], path, SHA1, retries=1)
    server.answers = [Answer(cut=0)] * 100
    with pytest.raises(DownloadError, match="broke off"):
        download([server.url], path, SHA1)
    assert len(server.requests) < 20 and not path.exists()


def test_after_a_refusal_the_next_url_is_tried(server, path):
    server.answers = [Answer(status=404)]
    download([server.url, server.url.replace("weights", "elsewhere")], path, SHA1)  # which is redirected
    assert complete(path) and len(server.requests) == 2


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "weights.params"])
def test_only_http_is_downloaded(path, url):
    with pytest.raises(InputError, match="only http"):
        download([url], path)


def test_a_redirect_to_a_local_file_is_not_followed(server, path):
    server.answers = [Answer(status=302, headers=(("Location", "file:///etc/passwd"),))]
    with pytest.raises(DownloadError):
        download([server.url], path)
    assert not path.exists()


@pytest.mark.parametrize("url", ["http://", "http://[", "http://\u00a0.\u00a0"])
def test_an_address_that_is_none_is_one_line(path, url):
    with pytest.raises(DownloadError) as raised:
        download([url], path)
    assert len(str(raised.value).splitlines()) == 1


def test_offline_is_one_line_at_once(path, monkeypatch):
    with Server(CONTENT) as closed:
        url = closed.url
    with pytest.raises(DownloadError, match=f"^{url}: .*Connection refused$"):
        download([url], path, SHA1)

    def getaddrinfo(host, *args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits"))
    with pytest.raises(DownloadError, match="^http://weights.invalid/x: Failed to resolve 'weights.invalid'.*$"):
        download(["http://weights.invalid/x"], path, SHA1)


def test_wrong_bytes_are_named_and_removed(server, path):
    server.answers = [Answer(content=WRONG)]
    with pytest.raises(DownloadError) as raised:
        download([server.url], path, SHA1, len(CONTENT))
    assert SHA1.value in str(raised.value) and hashlib.sha1(WRONG).hexdigest() in str(raised.value)
    assert len(server.requests) == 1 and os.listdir(path.parent) == []


@pytest.mark.parametrize("start", [WRONG[:TENTH], CONTENT[:-1] + b"x", CONTENT, CONTENT + b"x"],
                         ids=["wrong", "wrong and complete", "complete", "too long"])
def test_whatever_an_earlier_download_left_it_ends_well(server, path, start):
    path.parent.mkdir()
    partial_of(path).write_bytes(start)
    download([server.url], path, SHA1)
    assert complete(path)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b""], ids=["short", "long", "empty"])
@pytest.mark.parametrize("known", [(SHA1, None), (None, len(CONTENT))], ids=["hash", "size"])
def test_another_length_is_refused(server, path, content, known):
    for says in (True, False):
        server.content, server.answers = content, [Answer(length=says)]
        with pytest.raises(DownloadError):
            download([server.url], path, *known)
        assert not path.exists()


def test_no_more_than_the_size_is_taken(path):
    with serving(Server(bytes(50_000_000))) as server:
        code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000,) * 2)\n" \
               "from common.zoo.download import download; download([sys.argv[1]], sys.argv[2], size=300_000)"
        process = subprocess.run([sys.executable, "-c", code, server.url, path], cwd=ROOT, capture_output=True,
                                 text=True, check=False)
    assert "more than 300,000 bytes" in process.stderr and not path.exists()


@pytest.mark.parametrize("answer", [
    Answer(ranges=False), Answer(headers=(("Content-Range", f"bytes 0-9/{len(CONTENT)}"),))],
    ids=["all of it", "another range"])
def test_a_server_that_does_not_go_on_starts_again(server, path, answer):
    server.answers = [Answer(cut=5 * TENTH), answer]
    download([server.url], path, SHA1)
    assert complete(path) and server.requests[1] == f"bytes={5 * TENTH}-"


def test_without_a_hash_it_starts_again(server, path):
    path.parent.mkdir()
    partial_of(path).write_bytes(WRONG[:TENTH])
    server.answers = [Answer(cut=TENTH)]
    download([server.url], path)
    assert complete(path) and server.requests == [None, None]
    path.unlink()
    server.answers = [Answer(length=False)]
    with pytest.raises(DownloadError, match="how long"):
        download([server.url], path)


def test_what_is_there_is_not_downloaded_again(server, path):
    for _ in range(2):
        download([server.url], path, SHA1)
    assert complete(path) and len(server.requests) == 1


def test_another_file_in_its_place_is_left_alone(server, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    for known in ({"expected": SHA1}, {"size": 5}, {"start": (0, CONTENT[:4])}):
        with pytest.raises(InputError, match="weights.params"):
            download([server.url], path, **known)
    assert path.read_bytes() == b"mine" and server.requests == []


DOWNLOAD = """
import sys
from common.zoo.download import download
from common.base.errors import reported
from common.zoo.hashes import Hash
with reported("download"):
    download([sys.argv[1]], sys.argv[2], Hash("sha1", sys.argv[3]))
"""


def downloading(server, path, code=DOWNLOAD):
    return subprocess.Popen([sys.executable, "-c", code, server.url, str(path), SHA1.value], cwd=ROOT,
                            stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_a_terminal_shows_the_progress(server, path):
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    server.answers = [Answer(dribble=(TENTH, 0.03))]
    assert subprocess.run([sys.executable, "-c", DOWNLOAD, server.url, path, SHA1.value], cwd=ROOT, stderr=end,
                          check=False).returncode == 0
    assert b"weights.params:" in os.read(terminal, 10_000)
    for descriptor in (terminal, end):
        os.close(descriptor)
    path.unlink()
    assert downloading(server, path).communicate()[1] == ""


def test_two_processes_download_once(server, path):
    server.answers = [Answer(hold=TENTH)]
    first = downloading(server, path)
    wait_for(lambda: partial_of(path).exists())
    second = downloading(server, path)
    assert "waiting" in second.stderr.readline() and not path.exists()
    server.go.set()
    errors = first.communicate()[1], second.communicate()[1]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert complete(path) and server.requests == [None]


def test_killed_in_the_middle_it_goes_on(server, path):
    server.answers = [Answer(stall=4 * TENTH)]
    process = downloading(server, path)
    wait_for(lambda: partial_of(path).exists() and partial_of(path).stat().st_size)
    process.kill()
    process.communicate()
    assert not path.exists()
    had = partial_of(path).stat().st_size
    assert downloading(server, path).wait() == 0
    assert complete(path) and server.requests == [None, f"bytes={had}-"]


@pytest.mark.long
def test_killed_at_any_time_it_is_complete_or_not_there(server, path):
    rng = random.Random(0)
    for _ in range(40):
        server.answers = [Answer(dribble=(TENTH // 2, 0.05))]
        process = downloading(server, path)
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        process.communicate()
        if path.exists():
            assert path.read_bytes() == CONTENT
            path.unlink()
    server.answers = []
    assert downloading(server, path).wait() == 0 and complete(path)


def test_a_full_disk_is_one_line(server, path):
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" \
           "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)\n"
    process = downloading(server, path, code + DOWNLOAD)
    assert process.communicate()[1] == f"download: error: {path}: File too large\n"
    assert process.returncode == 1 and os.listdir(path.parent) == []


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").touch()
    process = downloading(server, tmp_path / "file" / "weights")
    line, = process.communicate()[1].splitlines()
    assert line == f"download: error: {tmp_path}/file: cannot be written to (File exists)" and server.requests == []
    line, = downloading(server, "/proc/weights").communicate()[1].splitlines()
    assert line.startswith("download: error: /proc: cannot be written to") and server.requests == []


class Proxy(BaseHTTPRequestHandler):
    """Passes requests for any host on to the server's own port."""

    def do_GET(self):
        self.server.asked.append(self.path)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target)
        connection.request("GET", urlsplit(self.path).path)
        answer = connection.getresponse()
        self.send_response(answer.status)
        self.send_header("Content-Length", answer.headers["Content-Length"])
        self.end_headers()
        self.wfile.write(answer.read())
        connection.close()

    def log_message(self, *args):
        pass


def test_a_proxy_is_used(server, path, monkeypatch):
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.asked, proxy.target = [], server.server_port
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    with serving(proxy):
        download(["http://weights.invalid/weights"], path, SHA1)  # a name that never resolves
    assert complete(path) and proxy.asked == ["http://weights.invalid/weights"]


def zipped(content, name="net.params", **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside", b"x")
        archive.writestr(name, content)
    return buffer.getvalue()


def test_a_member_of_an_archive(server, path):
    server.content = zipped(CONTENT)
    server.answers = [Answer(cut=5 * TENTH)]
    download([server.url], path, SHA1, member="net.params")
    assert complete(path) and server.requests[1] == f"bytes={5 * TENTH}-"
    assert os.listdir(path.parent.parent) == ["folder"]


@pytest.mark.parametrize("content, message", [
    (zipped(WRONG), SHA1.value), (zipped(CONTENT, "other"), "has no net.params"), (CONTENT, "not a usable zip"),
    (zipped(CONTENT)[:-100], "not a usable zip"), (b"PK\x03\x04" + bytes(100), "not a usable zip")],
    ids=["another file", "another name", "no archive", "a part of one", "only how one begins"])
def test_an_archive_without_the_file(server, path, content, message):
    server.content = content
    with pytest.raises(DownloadError, match=message):
        download([server.url], path, SHA1, member="net.params")
    assert os.listdir(path.parent) == []


def test_an_archive_that_unpacks_to_too_much(tmp_path):
    (tmp_path / "bomb.zip").write_bytes(zipped(bytes(10_000_000)))
    with pytest.raises(InputError, match="more than 1,000,000 bytes"):
        extract_member(tmp_path / "bomb.zip", "net.params", tmp_path / "out", 1_000_000)
    assert not (tmp_path / "out").exists() or not (tmp_path / "out").stat().st_size
