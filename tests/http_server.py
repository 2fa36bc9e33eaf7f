"""A real HTTP server on loopback that serves one file, well or badly as a test asks."""
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Answer(NamedTuple):
    """How one request is answered; by default with the bytes that it asks for."""
    status: int | None = None       # this one, without a body
    content: bytes | None = None    # in place of the server's
    cut: int | None = None          # the connection ends after that many bytes
    stall: int | None = None        # nothing more comes after that many
    hold: int | None = None         # after that many it waits for the server's `go`
    dribble: tuple = (1 << 16, 0)   # bytes at a time, seconds between
    ranges: bool = True             # False: answers every request with all of the file
    length: bool = True             # False: does not say how long it is
    chunked: bool = False
    headers: tuple = ()


class Server(ThreadingHTTPServer):
    """`requests`: the Range header (or None) of each request; `answers`: those still to be given, before good ones."""
    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.answers, self.requests = content, [], []
        self.go, self.closing = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/weights"

    def handle_error(self, request, client_address):
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        if self.path == "/elsewhere":
            return self._redirect("/weights")
        asked = self.headers.get("Range")
        server.requests.append(asked)
        answer = server.answers.pop(0) if server.answers else Answer()
        if answer.status is not None:
            return self._head(answer.status, [("Content-Length", "0")], answer)
        content = server.content if answer.content is None else answer.content
        start, status, headers = 0, 200, []
        if asked and answer.ranges:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                return self._head(416, [("Content-Range", f"bytes */{len(content)}"), ("Content-Length", "0")], answer)
            headers.append(("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"))
        if answer.chunked:
            self.protocol_version = "HTTP/1.1"
            self.close_connection = True
            headers.append(("Transfer-Encoding", "chunked"))
        elif answer.length:
            headers.append(("Content-Length", str(len(content) - start)))
        self._head(status, headers, answer)
        self._body(content[start:], answer)

    def _redirect(self, location):
        self._head(302, [("Location", location), ("Content-Length", "0")], Answer())

    def _head(self, status, headers, answer):
        self.send_response(status)
        names = {name for name, _ in answer.headers}
        for name, value in [*(header for header in headers if header[0] not in names), *answer.headers]:
            self.send_header(name, value)
        self.end_headers()

    def _body(self, body, answer):
        end = next((n for n in (answer.cut, answer.stall) if n is not None), len(body))
        step, pause = answer.dribble
        for at in range(0, end, step):
            if answer.hold is not None and at >= answer.hold:
                self.server.go.wait()
            piece = body[at:min(at + step, end)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if answer.chunked else piece)
            self.wfile.flush()
            time.sleep(pause)
        if answer.stall is not None:
            self.server.closing.wait()
        if answer.chunked and end == len(body):
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args):
        pass


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        if hasattr(server, "closing"):
            server.closing.set()
            server.go.set()
        server.shutdown()
        thread.join()
        server.server_close()
