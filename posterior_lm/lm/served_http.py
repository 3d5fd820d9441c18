"""Requests to a server of models: JSON there and back, with patience where it is busy and none where it is wrong.

By the standard library, since the package that huggingface_hub brings has another name in each of its versions.
Redirects are not followed, and the key of $PLM_SERVER_KEY goes to the server of $PLM_SERVER_URL alone: a program may
name any address.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NoReturn
from urllib.parse import urlsplit

from attrs import frozen

from posterior_lm.lang.diagnostics import ModelError, shortened
from posterior_lm.lm.notices import notice

KEY, KEY_URL = "PLM_SERVER_KEY", "PLM_SERVER_URL"
TIMEOUT = 120.0
"""Seconds that a server has for an answer, and to get well where it is busy or fails."""
CONCURRENT = 8
"""Requests at once."""
LARGEST = 2**30
"""Bytes of an answer."""
BUSY = (429, 500, 502, 503, 504)
WIDEST = 200
"""Characters of an answer that a message shows."""


class _Passing(Exception):
    """What may be over soon: why, and the seconds after which the server asks to be asked again."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class RefusedRequest(ModelError):
    """The server does not take a request as it is."""


@frozen(eq=False)
class Endpoint:
    """A server by its address, such as http://localhost:8000/v1."""

    url: str
    timeout: float = TIMEOUT

    @classmethod
    def of(cls, url: str, timeout: float = TIMEOUT) -> Endpoint:
        """Raises ModelError PLM561 for what is no address."""
        try:
            parts = urlsplit(url if url.isascii() and url.isprintable() and " " not in url else "")
            _ = (parts.hostname or "").encode("idna"), parts.port
        except ValueError:  # of the brackets, the port, or a host that cannot be looked up
            parts = urlsplit("")
        if parts.username or parts.password or parts.query or parts.fragment:
            help = f"set {KEY} to a key, and {KEY_URL} to the address"
            raise ModelError.of(
                "PLM561", "the address of a server holds more than a host and a path", help=help
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            help = "write it like http://localhost:8000/v1"
            raise ModelError.of("PLM561", "this is no address of a server", help=help)
        return cls(url.rstrip("/"), timeout)

    def get(self, path: str) -> dict[str, Any]:
        return self._asked("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._asked("POST", path, body)

    def post_all(self, path: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers to bodies, in order; some are asked for at once."""
        if len(bodies) <= 1:
            return [self.post(path, body) for body in bodies]
        with ThreadPoolExecutor(min(CONCURRENT, len(bodies))) as pool:
            return list(pool.map(lambda body: self.post(path, body), bodies))

    def _asked(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The JSON object that is answered. Raises ModelError PLM560 for a server that does not, PLM561 for anything else."""
        data = None if body is None else json.dumps(body).encode()
        began, wait = time.monotonic(), 0.25
        while True:
            try:
                return self._once(method, path, data)
            except (_Passing, OSError, http.client.HTTPException) as problem:
                why = _why(problem)
                after = max(wait * (0.5 + random.random()), getattr(problem, "after", 0.0))
                absent = isinstance(problem, ConnectionRefusedError | socket.gaierror) and wait >= 1
                if absent or time.monotonic() - began + after > self.timeout:
                    help = "see that it runs and is well, and ask again: what was scored is kept"
                    raise ModelError.of(
                        "PLM560", f"the server {self.url} does not answer: {why}", help=help
                    ) from None
            if wait >= 1:
                notice(f"the server {self.url} is busy or unwell ({why}); it is asked again")
            time.sleep(after)
            wait *= 2

    def _once(self, method: str, path: str, data: bytes | None) -> dict[str, Any]:
        headers = {"Accept": "application/json"} | (
            {} if data is None else {"Content-Type": "application/json"}
        )
        if (key := os.environ.get(KEY)) and _origin(os.environ.get(KEY_URL, "")) == _origin(self.url):
            headers["Authorization"] = f"Bearer {key}"
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        # Of its own, since none that is kept open has an end that is known: models have none.
        with closing(kind(str(parts.hostname), parts.port, timeout=self.timeout)) as connection:
            connection.request(method, parts.path + path, data, headers)
            answer = connection.getresponse()
            content = answer.read(LARGEST + 1)
            if len(content) > LARGEST:
                self.wrong("an answer of more than a GiB")
            if answer.length:  # http.client says nothing of an answer that breaks off
                raise http.client.IncompleteRead(content, answer.length)
        status = answer.status
        if status in BUSY:
            after = answer.headers.get("Retry-After", "")
            raise _Passing(f"status {status}", float(after) if after.isdigit() else 0.0)
        if 300 <= status < 400:
            self.wrong(f"it answers with status {status}, a redirect, which is not followed")
        if status in (401, 403):
            help = f"set {KEY} to its key, and {KEY_URL} to {self.url}"
            self.wrong(f"it refuses access (status {status})", help)
        try:
            found = json.loads(content, parse_constant=_no_number)
        except (ValueError, RecursionError) as problem:
            odd = str(problem) if isinstance(problem, _NoNumber) else "what it answers is no JSON"
            self.wrong(f"{odd} (status {status}, {_begin(content)})")
        if not isinstance(found, dict):
            self.wrong("what it answers is no JSON object")
        if status >= 400:
            said = f"the server {self.url} refuses the request (status {status}): {_said(found)}"
            raise RefusedRequest.of("PLM561", said)
        return found

    def wrong(self, why: str, help: str | None = None) -> NoReturn:
        """Raises ModelError PLM561."""
        raise ModelError.of("PLM561", f"the server {self.url} cannot be used: {why}", help=help)


class _NoNumber(ValueError):
    """NaN or an infinity, which JSON has not."""


def _no_number(word: str) -> NoReturn:
    raise _NoNumber(f"it answers with {word}, which is no number")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port
    except ValueError:
        return "", None, None


def _why(problem: Exception) -> str:
    if isinstance(problem, TimeoutError):
        return "it takes too long"
    return str(
        (isinstance(problem, OSError) and problem.strerror) or problem or type(problem).__name__
    ).lower()


def _begin(content: bytes) -> str:
    return f"beginning with {shortened(content[:WIDEST].decode('utf-8', 'replace').strip(), 60)!r}"


def _said(answer: dict[str, Any]) -> str:
    """What a refusal says of itself, as OpenAI, vLLM and FastAPI write it."""
    problem = answer.get("error", answer)
    text = problem.get("message", problem.get("detail", "")) if isinstance(problem, dict) else problem
    return shortened(" ".join(str(text).split()), WIDEST) or "it does not say why"
