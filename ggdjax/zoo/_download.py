"""Files from the network into a cache: checked by SHA-256, resumed where a download broke off, put in place at once.

By hand, because the package `pooch` starts a broken download anew.
"""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ggdjax._errors import ModelError
from ggdjax._lock import exclusive
from ggdjax.data import default_cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPResponse

_CHUNK = 1 << 20
_TIMEOUT_S = 30.0


def _sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, sha256: str, progress: Callable[[int, int | None], None] | None = None) -> Path:
    """Return the cached copy of ``url``, fetched if there is none yet.

    What a broken download left is kept beside the cache entry and the rest is asked for by an HTTP range; a server
    without ranges sends all of it again. A file takes its place only after its checksum agreed. Of several processes
    one downloads and the others wait.

    Args:
      url: an `http` or `https` address.
      sha256: 64 hexadecimal digits of the whole file.
      progress: called with (bytes so far, bytes in all or None) after every piece.

    Raises:
      ModelError: an address or checksum that is none, no network, a refusal by the server, a download that ended
        early (calling again resumes it), or a file with another checksum.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise ModelError(f"`url` is {url!r}, expected an http or https address")
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ModelError(f"`sha256` is {sha256!r}, expected 64 hexadecimal digits")
    sha256 = sha256.lower()
    path = default_cache_dir() / f"{sha256[:16]}-{Path(urlsplit(url).path).name}"
    if _is_whole(path, sha256):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path, "GGDJAX_CACHE", wait=True):
            # Another process may have been first.
            if not _is_whole(path, sha256):
                _fetch_whole(url, path, sha256, progress)
    except urllib.error.HTTPError as error:
        raise ModelError(f"{url} was refused by the server: {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise ModelError(
            f"{url} cannot be reached ({error.reason}): check the network, or fetch the file yourself and give its path"
        ) from error
    except (HTTPException, ConnectionError, TimeoutError) as error:
        raise ModelError(f"the download of {url} broke off ({error}): call again to resume it") from error
    except OSError as error:
        raise ModelError(f"{url} cannot be kept in `{path.parent}`: {error} (set GGDJAX_CACHE)") from error
    return path


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256_of(path) == sha256


def _fetch_whole(url: str, path: Path, sha256: str, progress: Callable[[int, int | None], None] | None) -> None:
    """Put ``url`` in place at ``path``, by a file beside it that stays where the download breaks off."""
    part = path.with_name(path.name + ".part")
    _fetch(url, part, progress)
    found = _sha256_of(part)
    if found != sha256:
        part.unlink()
        raise ModelError(f"{url} has the SHA-256 {found}, expected {sha256}: the file was discarded, do not use it")
    part.replace(path)


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
    """Append to ``part`` what it lacks of ``url``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(
        url, headers={"User-Agent": "ggdjax"} | ({"Range": f"bytes={have}-"} if have else {})
    )
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        # 416: nothing lies behind what is there already. The checksum says whether that is the file.
        if error.code == 416 and have:
            return
        raise
    with response:
        resumed = response.status == 206 and _starts_at(response) == have
        total = response.headers.get("Content-Length")
        total = None if total is None else int(total) + (have if resumed else 0)
        done = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            while piece := response.read(_CHUNK):
                file.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"{done:,} of {total:,} bytes came")


def _starts_at(response: HTTPResponse) -> int | None:
    """Return the first byte of a partial answer."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return None if found is None else int(found[1])
