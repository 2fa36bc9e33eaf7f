"""Downloads from a real server that misbehaves: the file ends whole and verified, or it is not there."""
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

CONTENT = random.Random(0).randbytes(300_000)
TENTH = len(CONTENT) // 10
SHA1 = Hash("sha1", hashlib.sha1(CONTENT).hexdigest())
WRONG = bytes(len(CONTENT))
AT_ONCE = {"pauses": (0, 0, 0)}


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


def left(path):
    """What is beside `path`, but for the lock."""
    return [name for name in os.listdir(path.parent) if not name.endswith(".lock")]


def whole(path):
    return path.read_bytes() == CONTENT and left(path) == [path.name]


@pytest.mark.parametrize("tenth", range(10))
def test_cut_at_every_tenth_it_goes_on(server, path, tenth):
    server.answers = [Answer(cut=tenth * TENTH)]
    assert download([server.url], path, SHA1, len(CONTENT), **AT_ONCE) == path
    assert whole(path) and server.requests == [None, f"bytes={tenth * TENTH}-" if tenth else None]


def test_cut_again_and_again_it_goes_on(server, path):
    server.answers = [Answer(cut=TENTH)] * 9
    download([server.url], path, SHA1, **AT_ONCE)
    assert whole(path)
    assert server.requests == [None, *(f"bytes={n * TENTH}-" for n in range(1, 10))]


@pytest.mark.parametrize("answer", [
    Answer(stall=5 * TENTH), Answer(stall=0), Answer(dribble=(1, 0.05)), Answer(status=500), Answer(status=503),
    Answer(status=429, headers=(("Retry-After", "0"),)), Answer(cut=0), Answer(cut=TENTH, chunked=True),
    Answer(cut=TENTH, length=False), Answer(cut=0, headers=(("Content-Length", "x"),)),
], ids=str)
def test_what_passes_is_tried_again(server, path, answer):
    server.answers = [answer, Answer(cut=TENTH), answer]
    download([server.url], path, SHA1, len(CONTENT), timeout=0.4, **AT_ONCE)
    assert whole(path)


@pytest.mark.parametrize("answer", [
    Answer(dribble=(TENTH // 4, 0.01)), Answer(chunked=True), Answer(length=False),
    Answer(headers=(("ETag", '"x"'),))], ids=str)
def test_an_odd_answer_that_is_whole_will_do(server, path, answer):
    server.answers = [answer]
    download([server.url], path, SHA1, len(CONTENT), pauses=())
    assert whole(path) and len(server.requests) == 1


def test_a_server_that_does_not_recover_is_given_up(server, path):
    server.answers = [Answer(status=502)] * 4
    with pytest.raises(DownloadError, match=f"^{server.url}: HTTP 502 Bad Gateway$"):
        download([server.url], path, SHA1, **AT_ONCE)
    assert len(server.requests) == 4 and left(path) == []


def test_what_a_server_says_cannot_reach_the_terminal(server, path):
    server.answers = [Answer(headers=(("Content-Encoding", "\x1b[2J" + "x" * 1000),))]
    with pytest.raises(DownloadError) as raised:
        download([server.url], path, SHA1, pauses=())
    assert "encoding ?[2Jxxx" in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_not_tried_again(server, path, status):
    server.answers = [Answer(status=status)]
    with pytest.raises(DownloadError, match=f"{server.url}: HTTP {status}"):
        download([server.url], path, SHA1, **AT_ONCE)
    assert len(server.requests) == 1 and left(path) == []


def test_the_next_url_is_tried_and_goes_on(server, path):
    server.answers = [Answer(cut=4 * TENTH), Answer(status=404)]
    download([f"{server.url}?first", server.url], path, SHA1, **AT_ONCE)
    assert whole(path) and server.requests[2] == f"bytes={4 * TENTH}-"


def test_a_redirect_is_followed(server, path):
    server.answers = [Answer(cut=TENTH)]
    download([server.url.replace("weights", "elsewhere")], path, SHA1, **AT_ONCE)
    assert whole(path) and server.requests[1] == f"bytes={TENTH}-"


def test_a_redirect_to_a_local_file_is_not(server, path, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    server.answers = [Answer(status=302, headers=(("Location", f"file://{tmp_path}/secret"),))]
    with pytest.raises(DownloadError, match="No connection adapters"):
        download([server.url], path, SHA1, **AT_ONCE)
    assert left(path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "weights.params", "/etc/passwd"])
def test_only_http_is_downloaded(path, url):
    with pytest.raises(InputError, match="only http"):
        download([url], path)


def test_nobody_listens(path):
    with Server(CONTENT) as closed:
        url = closed.url
    with pytest.raises(DownloadError, match="Connection refused$") as raised:
        download([url], path, SHA1, pauses=(0,))
    assert len(str(raised.value).splitlines()) == 1


def test_a_name_that_does_not_resolve_is_not_tried_again(path, monkeypatch):
    asked = []

    def getaddrinfo(host, *args):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(DownloadError, match="Failed to resolve 'weights.invalid'"):
        download(["http://weights.invalid/weights"], path, SHA1, **AT_ONCE)
    assert asked == ["weights.invalid"]


def test_wrong_bytes_are_named_and_removed(server, path):
    server.answers = [Answer(content=WRONG)]
    with pytest.raises(DownloadError) as raised:
        download([server.url], path, SHA1, len(CONTENT), **AT_ONCE)
    assert SHA1.value in str(raised.value) and hashlib.sha1(WRONG).hexdigest() in str(raised.value)
    assert len(server.requests) == 1 and left(path) == []


@pytest.mark.parametrize("start", [WRONG[:TENTH], CONTENT[:-1] + b"x"])
def test_a_wrong_file_of_two_parts_is_fetched_anew(server, path, start):
    path.parent.mkdir()
    partial_of(path).write_bytes(start)
    download([server.url], path, SHA1, **AT_ONCE)
    assert whole(path) and None in server.requests


def test_wrong_parts_do_not_go_on_for_ever(server, path):
    server.answers = [Answer(content=WRONG, cut=TENTH), Answer(content=WRONG)] * 10
    with pytest.raises(DownloadError, match=SHA1.value):
        download([server.url], path, SHA1, **AT_ONCE)
    assert len(server.requests) == 4 and left(path) == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b""], ids=["short", "long", "empty"])
@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_length_is_refused(server, path, content, says, known):
    server.content, server.answers = content, [Answer(length=says)]
    with pytest.raises(DownloadError):
        download([server.url], path, SHA1, len(CONTENT) if known else None, **AT_ONCE)
    assert not path.exists()


def test_no_more_than_the_size_is_taken(path, tmp_path):
    with serving(Server(bytes(50_000_000))) as server:
        server.answers = [Answer(length=False)]
        code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000,) * 2)\n" \
               "from common.zoo.download import download; download([sys.argv[1]], sys.argv[2], size=300_000)"
        process = subprocess.run([sys.executable, "-c", code, server.url, path], cwd=ROOT, capture_output=True,
                                 text=True, check=False)
    assert "more bytes than expected: 300,000" in process.stderr and left(path) == []


def test_a_server_without_ranges_starts_again(server, path):
    server.answers = [Answer(cut=5 * TENTH), Answer(ranges=False)]
    download([server.url], path, SHA1, **AT_ONCE)
    assert whole(path) and server.requests == [None, f"bytes={5 * TENTH}-"]


def test_a_server_that_sends_another_range_is_asked_for_all(server, path):
    server.answers = [Answer(cut=5 * TENTH), Answer(headers=(("Content-Range", f"bytes 0-9/{len(CONTENT)}"),))]
    download([server.url], path, SHA1, **AT_ONCE)
    assert whole(path) and server.requests[2] is None


def test_all_but_the_renaming_was_done(server, path):
    path.parent.mkdir()
    partial_of(path).write_bytes(CONTENT)
    download([server.url], path, SHA1, **AT_ONCE)
    assert whole(path) and server.requests == [f"bytes={len(CONTENT)}-"]  # the answer is 416


def test_more_than_all_was_there(server, path):
    path.parent.mkdir()
    partial_of(path).write_bytes(CONTENT + b"x")
    download([server.url], path, SHA1, **AT_ONCE)
    assert whole(path) and server.requests == [f"bytes={len(CONTENT) + 1}-", None]


ETAG = (("ETag", '"one"'),)


@pytest.mark.parametrize("second, ranges", [
    (Answer(headers=ETAG), 1),                          # the same file still
    (Answer(headers=(("ETag", '"two"'),)), 1),          # another one, whole
    (Answer(headers=(("ETag", 'W/"one"'),)), 1)])
def test_without_a_hash_it_goes_on_only_with_the_same_file(server, path, second, ranges):
    other = WRONG if second.headers != ETAG else CONTENT
    server.answers = [Answer(cut=TENTH, headers=ETAG), second._replace(content=other)]
    download([server.url], path, **AT_ONCE)
    assert path.read_bytes() == other and len([r for r in server.requests if r]) == ranges


def test_without_a_hash_or_an_etag_it_starts_again(server, path):
    path.parent.mkdir()
    partial_of(path).write_bytes(WRONG[:TENTH])
    server.answers = [Answer(cut=TENTH)]
    download([server.url], path, **AT_ONCE)
    assert whole(path) and server.requests == [None, None]


def test_without_a_hash_the_length_has_to_be_known(server, path):
    server.answers = [Answer(length=False)]
    with pytest.raises(DownloadError, match="does not say how long"):
        download([server.url], path, **AT_ONCE)


def test_what_is_there_is_not_downloaded_again(server, path):
    for _ in range(2):
        download([server.url], path, SHA1, **AT_ONCE)
    assert whole(path) and len(server.requests) == 1


def test_another_file_in_its_place_is_left_alone(server, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="is not the file to be downloaded"):
        download([server.url], path, SHA1, **AT_ONCE)
    assert path.read_bytes() == b"mine" and server.requests == []
    with pytest.raises(InputError, match="does not begin as such a file does"):
        download([server.url], path, start=(0, CONTENT[:4]), **AT_ONCE)


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
    assert second.stderr.readline() == f"waiting for another process, which downloads {path.name}\n"
    assert not path.exists()
    server.go.set()
    errors = first.communicate()[1], second.communicate()[1]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert whole(path) and server.requests == [None]


def test_killed_in_the_middle_it_goes_on(server, path):
    server.answers = [Answer(stall=4 * TENTH)]
    process = downloading(server, path)
    wait_for(lambda: partial_of(path).exists() and partial_of(path).stat().st_size)
    process.kill()
    process.communicate()
    assert not path.exists()
    had = partial_of(path).stat().st_size
    assert downloading(server, path).wait() == 0
    assert whole(path) and server.requests == [None, f"bytes={had}-"]


@pytest.mark.long
def test_killed_at_any_time_it_is_whole_or_not_there(server, path):
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
    assert downloading(server, path).wait() == 0 and whole(path)


def test_a_full_disk_is_one_line(server, path):
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" \
           "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)\n"
    process = downloading(server, path, code + DOWNLOAD)
    assert process.communicate()[1] == f"download: error: {path}: File too large\n"
    assert process.returncode == 1 and left(path) == []


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
        download(["http://weights.invalid/weights"], path, SHA1, pauses=())  # a name that never resolves
    assert whole(path) and proxy.asked == ["http://weights.invalid/weights"]


def zipped(content, name="net.params", **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside", b"x")
        archive.writestr(name, content)
    return buffer.getvalue()


def test_a_member_of_an_archive(server, path):
    server.content = zipped(CONTENT)
    server.answers = [Answer(cut=5 * TENTH)]
    download([server.url], path, SHA1, member="net.params", **AT_ONCE)
    assert whole(path) and server.requests[1] == f"bytes={5 * TENTH}-"
    assert os.listdir(path.parent.parent) == ["folder"]


@pytest.mark.parametrize("content, message", [
    (zipped(WRONG), SHA1.value), (zipped(CONTENT, "other"), "has no net.params"), (CONTENT, "not a usable zip"),
    (zipped(CONTENT)[:-100], "not a usable zip"), (b"PK\x03\x04" + bytes(100), "not a usable zip")],
    ids=["another file", "another name", "no archive", "a part of one", "only how one begins"])
def test_an_archive_without_the_file(server, path, content, message):
    server.content = content
    with pytest.raises(DownloadError, match=message):
        download([server.url], path, SHA1, member="net.params", **AT_ONCE)
    assert left(path) == []


def test_an_archive_that_unpacks_to_too_much(tmp_path):
    (tmp_path / "bomb.zip").write_bytes(zipped(bytes(10_000_000)))
    with pytest.raises(InputError, match="more than 1,000,000 bytes"):
        extract_member(tmp_path / "bomb.zip", "net.params", tmp_path / "out", 1_000_000)
    assert not (tmp_path / "out").exists() or not (tmp_path / "out").stat().st_size
