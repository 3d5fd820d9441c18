"""The application: who may ask, how many wait, and what each address answers.

Models compute one request after another, in one thread; what is beyond the queue is sent away at once, with
the seconds after which to come again. Answers that are wrong are objects with an `error`, as OpenAI's are, and the
`diagnostics` of `plm check`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from posterior_lm.lang.diagnostics import Diagnostic, PlmError, error, to_json
from posterior_lm.server.completions import complete
from posterior_lm.server.programs import Check, Models, Stopped, answer, ask, check

T = TypeVar("T")
Event = tuple[str, dict[str, Any]]
LARGEST = 2**22
"""Bytes of a request."""
QUEUE = 32
"""Requests that wait or are computed."""
LONGEST = 60.0
"""Seconds of budget of a row."""
AGAIN = "1"
"""Seconds after which a request that found the queue full may come again."""


ROOM = Path(__file__).parent
PAGE = {
    "/": (ROOM / "page" / "index.html", "text/html"),
    "/page.css": (ROOM / "page" / "page.css", "text/css"),
    "/page.js": (ROOM / "page" / "page.js", "text/javascript"),
    "/graph.css": (ROOM.parent / "report" / "graph.css", "text/css"),
}
"""The page to try programs on, by address: a file, and what it is."""
GUARDED = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""What a browser is told of the page: it runs its own script alone, and speaks to this server alone."""


class Full(Exception):
    """So many requests wait that no more are taken."""


@define
class Work:
    """One thread, at most `queue` pieces of work that wait for it or are done by it, and an end of all of them."""

    queue: int
    thread: ThreadPoolExecutor = field(factory=lambda: ThreadPoolExecutor(1, "models"))
    waiting: int = 0
    closed: bool = False

    async def do(self, work: Callable[[], T]) -> T:
        """What the work returns. Raises Full, and what the work raises."""
        if self.waiting >= self.queue or self.closed:
            raise Full
        self.waiting += 1
        done = asyncio.get_running_loop().run_in_executor(self.thread, work)
        done.add_done_callback(self._one_less)  # when it is done, whether or not somebody still waits for it
        return await asyncio.shield(done)

    def _one_less(self, done: asyncio.Future[Any]) -> None:
        self.waiting -= 1
        if not done.cancelled():
            done.exception()  # looked at, so that nothing is logged of one that nobody waits for

    def close(self) -> None:
        """No more work; what runs stops at its next step."""
        self.closed = True
        self.thread.shutdown(wait=False, cancel_futures=True)


def application(
    models: Models,
    check_further: Check,
    *,
    token: str | None = None,
    hosts: tuple[str, ...] = (),
    queue: int = QUEUE,
    budget: float = LONGEST,
    most_bytes: int = LARGEST,
) -> Starlette:
    """The server of models by name.

    `check_further` is what `plm check` adds for a program that may be sent; `token` is asked for below /v1 where there is
    one; `hosts` are the names that a request may call this machine by, any where there are none: else a page of
    the web could ask a server on the loopback through a name of its own.
    """
    work, reading = Work(queue), Work(queue)  # programs are read and checked beside what models compute

    async def completions(request: Request) -> Response:
        body = await _json(request)
        return JSONResponse(await work.do(lambda: complete(body, models)))

    async def posterior(request: Request) -> Response:
        body = await _json(request)
        asked, query = await reading.do(lambda: ask(body, models, budget))
        gone = False

        def stopped() -> bool:
            return gone or work.closed

        if not asked.stream:
            results: list[dict[str, Any]] = []

            def keep(name: str, event: dict[str, Any]) -> None:
                if name == "result":
                    results.append(event)

            waiter = asyncio.ensure_future(work.do(lambda: answer(asked, query, keep, stopped)))
            while not (await asyncio.wait({waiter}, timeout=0.5))[0]:
                gone = gone or await request.is_disconnected()
            await waiter
            return JSONResponse({"results": results})

        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def send(name: str, event: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (name, event))

        async def run() -> None:
            try:
                await work.do(lambda: answer(asked, query, send, stopped))
                events.put_nowait(("done", {"rows": len(asked.rows)}))
            except Exception as problem:
                events.put_nowait(("error", _told(problem)[1]))
            events.put_nowait(None)

        if work.waiting >= work.queue:  # said before the stream begins, with its own status
            raise Full
        running = asyncio.ensure_future(run())

        async def stream() -> AsyncIterator[str]:
            nonlocal gone
            try:
                while (event := await events.get()) is not None:
                    yield f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n"
                await running
            finally:
                gone = True

        return StreamingResponse(
            stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def checked(request: Request) -> Response:
        body = await _json(request)
        return JSONResponse(await reading.do(lambda: check(body, models, check_further)))

    async def listed(request: Request) -> Response:
        data = [
            {"id": name, "object": "model", "owned_by": "posterior_lm", "max_model_len": model.max_length,
             "digest": model.identity.digest, "dtype": model.identity.dtype, "tokenizer": model.tokenizer.digest,
             "vocabulary_size": model.tokenizer.vocabulary_size}
            for name, model in models.items()
        ]  # fmt: skip
        return JSONResponse({"object": "list", "data": data})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": work.waiting, "queue": work.queue})

    async def told(request: Request, problem: Exception) -> Response:
        status, body = _told(problem)
        return JSONResponse(body, status, {"Retry-After": AGAIN} if status == 429 else None)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        work.close()
        reading.close()

    routes = [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/posterior", posterior, methods=["POST"]),
        Route("/v1/check", checked, methods=["POST"]),
        Route("/v1/models", listed),
        Route("/health", health),
        *(Route(path, _shown(file, kind)) for path, (file, kind) in PAGE.items()),
    ]
    handlers: Any = {kind: told for kind in (PlmError, Full, Refused, Stopped, ClientDisconnect, Exception)}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.add_middleware(_Guard, token=token, hosts=hosts, most_bytes=most_bytes)
    return app


def _shown(file: Path, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def shown(request: Request) -> Response:
        return Response(file.read_bytes(), media_type=kind, headers=GUARDED)

    return shown


# ------------------------------------------------------------------------------- who may ask, and what


@define
class Refused(Exception):
    """A request that is not looked into: a status, and why."""

    status: int
    why: str


class _Guard:
    """Refuses what has another host, no token where one is asked for, or too many bytes, before anything reads it."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: tuple[str, ...], most_bytes: int) -> None:
        self.app, self.token, self.hosts, self.most_bytes = app, token, hosts, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"]}
        try:
            self._look(scope["path"], headers)
            taken = 0

            async def limited() -> Any:
                nonlocal taken
                message = await receive()
                taken += len(message.get("body", b""))
                if taken > self.most_bytes:
                    raise Refused(413, f"a request has {self.most_bytes:,} bytes at most")
                return message

            await self.app(scope, limited, send)
        except Refused as refused:
            status, body = _told(refused)
            more = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            await JSONResponse(body, status, more)(scope, receive, send)

    def _look(self, path: str, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].strip("[]").lower()
        if self.hosts and host not in self.hosts:
            raise Refused(421, "this server answers to its own address only")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most_bytes:
            raise Refused(413, f"a request has {self.most_bytes:,} bytes at most")
        if self.token is not None and path.startswith("/v1"):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
                raise Refused(401, "this server asks for its token: Authorization: Bearer …")


async def _json(request: Request) -> object:
    """The body as JSON. Another type of content is refused: pages of other sites can send those unasked."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Refused(415, "send JSON, with Content-Type: application/json")
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused(400, "the request is no JSON") from None


def _told(problem: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the body that tell of what went wrong."""
    found: tuple[Diagnostic, ...] = ()
    if isinstance(problem, PlmError):
        found, status = problem.diagnostics, 422 if problem.diagnostics[0].code != "PLM831" else 400
    elif isinstance(problem, Refused):
        found, status = (error("PLM831", problem.why),), problem.status
    elif isinstance(problem, Full):
        found, status = (error("PLM831", "the queue of this server is full; come again in a second"),), 429
    elif isinstance(problem, Stopped | ClientDisconnect):
        found, status = (error("PLM831", "the run was stopped"),), 503
    else:
        found, status = (error("PLM831", f"a mistake of the server itself ({type(problem).__name__})"),), 500
    first = found[0]
    kind = "server_error" if status >= 500 else "invalid_request_error"
    told = {"message": first.message, "type": kind, "param": first.where, "code": first.code}
    return status, {"error": told, "diagnostics": [to_json(d) for d in found]}
