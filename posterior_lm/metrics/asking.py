"""One question to an OpenAI-compatible server: no redirects, a deadline, a key that is never shown."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import frozen

from posterior_lm.lang.diagnostics import InferenceError, error

LONGEST = 1 << 20
"""Bytes of an answer that are read; one rating takes a thousandth of it."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
T = TypeVar("T")


class Refused(Exception):
    """The server cannot be asked, or does not answer as it should; `again` where another try may help."""

    def __init__(self, why: str, *, again: bool) -> None:
        super().__init__(why)
        self.again = again


@frozen
class Server:
    """Where chat completions are asked for, and the key, if any."""

    address: str
    key: str | None

    @classmethod
    def of(cls, url: str, key_env: str | None) -> Server:
        """The server of a base URL such as http://127.0.0.1:8000/v1. Raises InferenceError PLM784, PLM785."""
        try:
            parts = urllib.parse.urlsplit(url.strip())
            host, _ = parts.hostname, parts.port
        except (ValueError, AttributeError):
            raise _bad_url("it cannot be read", url) from None
        if parts.scheme not in ("http", "https") or not host:
            raise _bad_url("it begins with neither http:// nor https:// and a host", url)
        if parts.username or parts.password:  # such a URL would show its password in messages
            raise _bad_url("it holds a user name or a password", None)
        if parts.fragment or re.search(r"[^!-~]", url.strip()):
            raise _bad_url("it holds a fragment or characters that a URL cannot", url)
        path = parts.path.rstrip("/")
        if not path.endswith("/chat/completions"):
            path += "/chat/completions"
        return cls(urllib.parse.urlunsplit(parts._replace(path=path)), _key(key_env))

    @property
    def shown(self) -> str:
        """The address for messages; what follows `?` may be secret."""
        return self.address.partition("?")[0]

    def ask(self, body: dict[str, Any], timeout: float) -> str:
        """The content of the first choice. Raises Refused after at most `timeout` seconds."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers, method="POST")
        return _content(_within(timeout, lambda: self._send(request, timeout)))

    def _send(self, request: urllib.request.Request, timeout: float) -> bytes:
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if urllib.parse.urlsplit(self.address).hostname in LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
                return answer.read(LONGEST + 1)
        except urllib.error.HTTPError as problem:
            problem.close()
            again = problem.code in (408, 409, 425, 429) or problem.code >= 500
            raise Refused(f"HTTP status {problem.code}", again=again) from None
        except TimeoutError:
            raise Refused(f"no answer within {timeout:g} s", again=True) from None
        except (OSError, http.client.HTTPException, UnicodeError) as problem:
            reason = getattr(problem, "reason", problem)
            if isinstance(reason, TimeoutError):
                raise Refused(f"no answer within {timeout:g} s", again=True) from None
            why = getattr(reason, "strerror", None) or type(reason).__name__
            raise Refused(f"no connection: {why}", again=True) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along to wherever a server points."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises; Refused after the time. Sockets time out per read, names never."""
    box: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((work(), None))
        except Exception as problem:
            box.put((None, problem))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, problem = box.get(timeout=seconds + 0.5)
    except queue.Empty:
        raise Refused(f"no answer within {seconds:g} s", again=True) from None
    if problem is not None:
        raise problem
    return found  # type: ignore[return-value]


def _content(answer: bytes) -> str:
    if len(answer) > LONGEST:
        raise Refused(f"an answer of more than {LONGEST} bytes", again=False)
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Refused("an answer that is no chat completion", again=True) from None
    if not isinstance(content, str):
        raise Refused("a chat completion without text", again=True)
    return content


def _key(name: str | None) -> str | None:
    """The key in an environment variable. Raises InferenceError PLM785, which never shows it."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise InferenceError(
            error(
                "PLM785",
                f"the environment variable {name} holds no key for the judge",
                help=f"export {name}=..., or leave key_env out where the server needs no key",
            )
        )
    if re.search(r"[^!-~]", key):
        raise InferenceError(
            error(
                "PLM785",
                f"the key in the environment variable {name} has characters that no key has",
                help="set it anew, without line breaks or spaces",
            )
        )
    return key


def _bad_url(why: str, url: str | None) -> InferenceError:
    shown = "" if not isinstance(url, str) else f" {url.partition('?')[0]!r}"
    return InferenceError(
        error(
            "PLM784",
            f"the judge's address{shown} cannot be used: {why}",
            help="give a base URL such as http://127.0.0.1:8000/v1, and a key by key_env",
        )
    )
