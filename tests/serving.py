"""Servers in a thread of a test: an application of starlette under uvicorn, and requests to it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import frozen

from posterior_lm.cli.check import check_source
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.server.completions import complete


@frozen
class Served:
    """Where a server listens."""

    url: str

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of an answer; a body is posted as JSON, bytes as they are."""
        status, text, _ = self.raw(path, body, **headers)
        return status, json.loads(text)

    def raw(self, path: str, body: object = None, **headers: str) -> tuple[int, str, dict[str, str]]:
        plain = body is None or isinstance(body, bytes | Iterator)
        data: Any = body if plain else json.dumps(body).encode()
        named = {k.replace("_", "-"): v for k, v in {"Content_Type": "application/json", **headers}.items()}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, named), timeout=60
            ) as found:
                return found.status, found.read().decode(), dict(found.headers)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode(), dict(refused.headers)


@contextmanager
def serving(models: dict[str, LanguageModel], **more: Any) -> Iterator[Served]:
    """`plm serve` of these models on a free port; needs starlette and uvicorn."""
    import uvicorn

    from posterior_lm.server.app import application

    app = application(models, lambda source: check_source(source, source.name, lint=True)[1], **more)
    config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(20)


class Moody(BaseHTTPRequestHandler):
    """A server of one model by the standard library, whose answers are spoilt by `mood`, a function of the server's own.

    `mood(handler, path, body, answer)` gives the answer to send, or None where it has sent something itself.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any] | None) -> None:
        server: Any = self.server
        server.asked.append((self.path, body, dict(self.headers)))
        if body is None:
            answer: Any = {"data": [{"id": name, **more} for name, more in server.listed.items()]}
        else:
            try:
                answer = complete(body, {"model": server.model, **server.others})
            except PlmError as refused:
                return self.say(400, json.dumps({"error": {"message": refused.diagnostics[0].message}}))
        found = server.mood(self, body, answer)
        if found is not None:
            self.say(200, json.dumps(found))

    def say(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


Mood = Callable[[Moody, dict[str, Any] | None, dict[str, Any]], dict[str, Any] | None]


@contextmanager
def moody(model: LanguageModel, mood: Mood, **others: LanguageModel) -> Iterator[Any]:
    """A server whose answers go through `mood`; it has `url`, and `asked`: path, body and headers of every request.

    It calls the model `model`, and others as they are named; `listed` is what it tells of each.
    """
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    server.daemon_threads = True
    server.model, server.others, server.mood, server.asked = model, others, mood, []
    server.listed = {name: {} for name in ("model", *others)}
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
