"""Bring all the bytes of a URL into a file: gone on with after a break, tried again, and never more than are wanted."""
import contextlib
import email.utils
import http.client
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

PAUSES = (1, 2, 4)  # seconds before each further try, where one brought nothing new
MAX_PAUSE, MAX_TRIES = 60, 100
TIMEOUT = 30  # seconds without an answer, or at less than SLOWEST
SLOWEST = 1000  # bytes a second
MAX_SIZE = 200_000_000  # bytes, of a file whose size is not known
BLOCK = 1 << 16
LONGEST_REASON = 300  # characters, since a server may say anything
PASSING = {408, 425, 429, 500, 502, 503, 504}  # the answers of HTTP that another try may change
CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18})")


class Refused(Exception):
    """This URL will not give the file; the message says why, in a line that holds nothing but what can be printed."""

    def __init__(self, reason: str) -> None:
        line = " ".join(str(reason).split())
        super().__init__("".join(char if char.isprintable() else "?" for char in line[:LONGEST_REASON]))


class _Broken(Exception):
    """This try failed, another may not. `pause`: the seconds that the server asks for, if it does. `unknown`: there is
    no such server, or no network."""

    def __init__(self, reason: str, pause: float | None = None, unknown: bool = False) -> None:
        super().__init__(reason)
        self.pause, self.unknown = pause, unknown


def transfer(url: str, file: str | Path, size: int | None = None, resume: bool = True,
             pauses: Sequence[float] = PAUSES, timeout: float = TIMEOUT, label: str = "") -> bool:
    """Fill `file` with what the URL leads to; whether it was put together of more than one answer.

    `size`: how many bytes there are, where that is known; more than that, or than MAX_SIZE, are not taken. What is in
    the file already is gone on with; with resume=False only within this call, and where the server vouches (by an
    ETag) that it still has the same. `label` stands beside the progress bar, which a terminal shows.

    Raises Refused, and OSError where the file cannot be written.
    """
    file, failures = Path(file), 0
    if not resume:
        file.unlink(missing_ok=True)
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"  # a range is then one of the file's own bytes
        attempt = _Attempt(session, url, file, size, resume, timeout, label)
        for _ in range(MAX_TRIES):
            had = _size(file)
            try:
                attempt.run()
                return attempt.joined
            except _Broken as error:
                failures = 0 if _size(file) > had else failures + 1
                if failures > len(pauses) or error.unknown and not _size(file):
                    raise Refused(str(error)) from None
                pause = pauses[max(failures - 1, 0)] if pauses else 0
                time.sleep(min(pause if error.pause is None else error.pause, MAX_PAUSE))
    raise Refused(f"broke off {MAX_TRIES} times")


class _Attempt:
    """One try after the other to get the rest of a file. `joined`: it holds parts of several answers."""

    def __init__(self, session: requests.Session, url: str, file: Path, size: int | None, resume: bool,
                 timeout: float, label: str) -> None:
        self._session, self._url, self._file, self._timeout, self._label = session, url, file, timeout, label
        self._size, self._resume = size, resume
        self._validator: str | None = None  # the ETag of what the file holds
        self.joined = False

    def run(self) -> None:
        """Get what is missing. Raises _Broken, Refused and OSError."""
        had = _size(self._file)
        if had > (self._size or MAX_SIZE) or not (self._resume or self._validator):
            had = self._start_over()
        if had and had == self._size:
            self.joined = True
            return
        headers = {"Range": f"bytes={had}-"} if had else {}
        if had and self._validator:
            headers["If-Range"] = self._validator
        with _network_errors(self._timeout), \
                self._session.get(self._url, headers=headers, stream=True, timeout=self._timeout) as response:
            offset, total = self._extent(response, had)
            if had and offset == total:
                self.joined = True
                return
            etag = response.headers.get("ETag", "")
            self._validator = etag if etag.startswith('"') else None  # not a weak one, W/"..."
            self.joined = offset > 0
            self._receive(response, offset, total)

    def _extent(self, response: requests.Response, had: int) -> tuple[int, int | None]:
        """(offset of the first byte that comes, number of all bytes or None), by what the answer says."""
        status, headers = response.status_code, response.headers
        reason = f"HTTP {status} {response.reason or ''}".rstrip()
        if status in PASSING:
            raise _Broken(reason, _seconds(headers.get("Retry-After")))
        if status not in (200, 206, 416):
            raise Refused(reason)
        if status == 200:
            offset, total = 0, _number(headers.get("Content-Length"))
        else:
            told = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            offset, total = (had if told[1] is None else int(told[1]), int(told[2])) if told else (None, None)
            if offset != had or (status == 416 and total != had):
                self._start_over()
                raise _Broken("the server does not go on where the file broke off")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise Refused(f"comes in the encoding {headers['Content-Encoding']}")
        if total is None and not self._resume and self._size is None and not response.raw.chunked:
            raise Refused("the server does not say how long the file is, and there is no hash to tell")
        if total is not None and total > MAX_SIZE or self._size not in (None, total) and total is not None:
            raise Refused(f"{total:,} bytes, expected {self._wanted()}")
        return offset, total

    def _receive(self, response: requests.Response, offset: int, total: int | None) -> None:
        first, since, most = offset, time.monotonic(), self._size or MAX_SIZE
        with open(self._file, "ab" if offset else "wb") as file, \
                tqdm(total=total, initial=offset, unit="B", unit_scale=True, leave=False, disable=None,
                     desc=self._label, file=sys.stderr) as bar:
            while data := response.raw.read1(BLOCK, decode_content=False):
                offset += len(data)
                if offset > most:
                    self._start_over()
                    raise Refused(f"more bytes than expected: {self._wanted()}")
                file.write(data)
                bar.update(len(data))
                if (now := time.monotonic()) - since >= self._timeout:
                    if offset - first < SLOWEST * (now - since):
                        raise _Broken(f"less than {SLOWEST:,} bytes a second")
                    first, since = offset, now
        if (whole := total or self._size) and offset < whole:
            raise _Broken(f"ended after {offset:,} of {whole:,} bytes")

    def _start_over(self) -> int:
        self._file.unlink(missing_ok=True)
        self._validator, self.joined = None, False
        return 0

    def _wanted(self):
        return f"at most {MAX_SIZE:,}" if self._size is None else f"{self._size:,}"


@contextlib.contextmanager
def _network_errors(timeout):
    """Those of requests and of urllib3, which reads the body, as _Broken or Refused."""
    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise _Broken(f"no answer for {timeout:g} seconds") from None
    except requests.exceptions.SSLError as error:
        raise Refused(_line(error)) from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, urllib3.exceptions.HTTPError) as error:
        raise _Broken(_line(error), unknown=isinstance(_cause(error), urllib3.exceptions.NameResolutionError)) from None
    # too many redirects, one to another scheme, or to an address that is none, which requests does not always notice
    except (requests.RequestException, ValueError) as error:
        raise Refused(_line(error)) from None


def _cause(error):
    """What lies behind an exception of requests, which wraps those of urllib3."""
    cause = error.args[0] if error.args else error
    return getattr(cause, "reason", cause)


def _line(error: Exception) -> str:
    """What happened, without the objects to which it did."""
    cause = _cause(error)
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        cause = cause.args[-1]
    if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, http.client.RemoteDisconnected):
        return "what answers does not speak HTTP"
    return re.sub(r"^\S*Connection\w*\([^)]*\): |<[^>]*>:? ?", "", str(cause)) or type(cause).__name__


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _number(text: str | None) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text or "") else None


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, which gives seconds or a date."""
    if (seconds := _number(retry_after)) is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
