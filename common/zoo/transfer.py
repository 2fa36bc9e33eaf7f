"""Bring the content of a URL into a file: tried again after what may pass, and never more bytes than are wanted."""
import re
import sys
from pathlib import Path

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

RETRIES = 3  # of a request that gets no answer, or one of PASSING
BREAKS = 10  # answers that may break off before the URL is given up
TIMEOUT = 30  # seconds without a byte
LONGEST_PAUSE = 60  # seconds that a server may ask for
MAX_SIZE = 200_000_000  # bytes of a file whose size is not known
BLOCK = 1 << 14
PASSING = {408, 425, 429, 500, 502, 503, 504}  # the answers of HTTP that another try may change


class Refused(Exception):
    """This URL does not give the file; the message says why, in one line."""


def transfer(url: str, file: Path, most: int = MAX_SIZE, resume: bool = False, label: str = "",
             retries: int = RETRIES, timeout: float = TIMEOUT) -> None:
    """Fill `file` with the content of the URL, of at most `most` bytes.

    With `resume`, what `file` already holds is kept and only the rest is asked for: the caller has to tell, by a hash,
    that the result is right. Without it, the server has to say how long the content is. `label` stands beside the
    progress bar, which only a terminal shows.

    Raises Refused, and OSError if the file cannot be written.
    """
    # a name that does not resolve will not a minute later either: offline, that is said at once
    adapter = HTTPAdapter(max_retries=Retry(retries, connect=min(1, retries), status_forcelist=PASSING,
                                            backoff_factor=1, raise_on_status=False, retry_after_max=LONGEST_PAUSE))
    with requests.Session() as session:
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session.headers["Accept-Encoding"] = "identity"  # a range is then one of the file's own bytes
        try:
            for _ in range(BREAKS):
                if not resume:
                    file.unlink(missing_ok=True)
                if _receive(session, url, file, most, resume, label, timeout):
                    return
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise Refused(_reason(error)) from None
    raise Refused(f"broke off {BREAKS} times")


def _receive(session, url, file, most, resume, label, timeout):
    """Take one answer; whether it came to its end."""
    had = file.stat().st_size if file.exists() else 0
    with session.get(url, headers={"Range": f"bytes={had}-"} if had else {}, stream=True, timeout=timeout) as response:
        if had and response.status_code in (206, 416):
            if not response.headers.get("Content-Range", "").startswith(f"bytes {had}-"):
                file.unlink()
                return False
        elif response.status_code == 200:
            had = 0
        else:
            raise Refused(f"HTTP {response.status_code} {response.reason or ''}".rstrip())
        length = response.headers.get("Content-Length", "")
        if not (length.isdecimal() or resume):
            raise Refused("the server does not say how long the file is, and there is no hash to tell")
        with open(file, "ab" if had else "wb") as out, \
                tqdm(total=had + int(length) if length.isdecimal() else None, initial=had, unit="B", unit_scale=True,
                     leave=False, disable=None, desc=label, file=sys.stderr) as bar:
            try:
                for block in response.iter_content(BLOCK):
                    if out.tell() + len(block) > most:
                        raise Refused(f"has more than {most:,} bytes")
                    out.write(block)
                    bar.update(len(block))
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                return False
    return True


def _reason(error: Exception) -> str:
    """What happened, in one line, without the objects of requests and urllib3 to which it did."""
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        cause = cause.args[-1]
    text = re.sub(r"^(\w*Connection\w*\([^)]*\)|<[^>]*>):? ?", "", str(cause))
    return " ".join(text.split()) or type(cause).__name__
