"""Servers in a thread of a test: an application of starlette under uvicorn, and requests to it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from posterior_lm.cli.check import check_source
from posterior_lm.lm.protocol import LanguageModel


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
