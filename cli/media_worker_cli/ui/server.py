"""The page's server: its routes, and how errors are answered.

Reads are GET, live updates are server-sent events, and everything that changes something is a POST with JSON.
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from media_worker.errors import NoSuchJob, OperationRefused
from media_worker.operations import Outcome, cancel_job, delete_job, resend_segments, retry_job
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from media_worker_cli import watching
from media_worker_cli.dead_letters import dead_letters_in, redrive, require_useful
from media_worker_cli.errors import UsageError
from media_worker_cli.job_commands import require_job_id, this_user
from media_worker_cli.stack import Stack
from media_worker_cli.tables import parse_ranges
from media_worker_cli.ui import views
from media_worker_cli.ui.connection import Connection
from media_worker_cli.ui.media import answer_media
from media_worker_cli.ui.security import Guard, Session

_HERE = Path(__file__).parent
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_PAGE_FILES = {path.name: path for path in _HERE.iterdir() if path.suffix in _TYPES}
_NO_STORE = {"cache-control": "no-store"}
_LOCAL_INTERVAL_S = 1.0
_QUEUES_INTERVAL_S = 5.0
# A read that takes long is repeated less often, so that the page never uses more than a fifth of a thread.
_PAUSE_PER_READ = 4
_LONGEST_PAUSE_S = 30.0

_STATUS_OF: Mapping[type[Exception], HTTPStatus] = {
    NoSuchJob: HTTPStatus.NOT_FOUND,
    OperationRefused: HTTPStatus.CONFLICT,
    UsageError: HTTPStatus.BAD_REQUEST,
}

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Read: TypeAlias = Callable[[Stack], list[views.Event]]


def build_app(connection: Connection, session: Session) -> Starlette:
    """The application."""
    server = Server(connection, session)
    routes = [
        Route("/", server.page),
        Route("/files/{name}", server.page_file),
        Route("/api/events", _answering_errors(server.events)),
        Route("/api/letters", _answering_errors(server.letters)),
        Route("/api/media", _answering_errors(server.media)),
        Route("/api/act", _answering_errors(server.act), methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, session=session)])


class Server:
    """The endpoints."""

    def __init__(self, connection: Connection, session: Session) -> None:
        self._connection, self._session, self._cursors = connection, session, views.Cursors()

    async def page(self, _: Request) -> Response:
        """The page, with the token for its actions. The cookie replaces the token in the address."""
        text = (_HERE / "index.html").read_text(encoding="utf-8")
        text = text.replace("{{action_token}}", self._session.action_token)
        response = Response(text, media_type="text/html", headers=_NO_STORE)
        name, token = self._session.cookie_name, self._session.token
        response.set_cookie(name, token, httponly=True, samesite="strict", path="/")
        return response

    async def page_file(self, request: Request) -> Response:
        """A script or the style sheet."""
        path = _PAGE_FILES.get(request.path_params["name"])
        if path is None:
            return Response(status_code=HTTPStatus.NOT_FOUND)
        return Response(path.read_text(encoding="utf-8"), media_type=_TYPES[path.suffix], headers=_NO_STORE)

    async def events(self, request: Request) -> Response:
        """The live updates of one view: `jobs`, or `job` with its id."""
        query = request.query_params
        if query.get("view") == "job":
            read = views.JobFeed(_job_id(query)).read
        else:
            statuses = views.statuses_of(query.getlist("status"))
            read = views.JobsFeed(self._cursors, statuses, query.get("cursor")).read
        stream = self._stream(read)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_NO_STORE)

    async def _stream(self, read: Read) -> AsyncIterator[str]:
        interval_s = watching.AWS_INTERVAL_S if self._connection.name else _LOCAL_INTERVAL_S
        changes, queues_at = views.Changes(), 0.0
        yield _as_event("stack", {"label": self._connection.label, "is_local": self._connection.name is None})
        while True:
            began = time.monotonic()
            reads = [read]
            if began >= queues_at:
                reads.append(views.read_queues)
                queues_at = began + _QUEUES_INTERVAL_S
            texts = [_as_event(*event) for each in reads for event in await run_in_threadpool(self._try, each)]
            # A comment when nothing has changed: it shows whether the browser is still there.
            yield "".join(text for text in texts if changes.of(text.partition("\n")[0], text)) or ":\n\n"
            await anyio.sleep(min(_LONGEST_PAUSE_S, max(interval_s, _PAUSE_PER_READ * (time.monotonic() - began))))

    def _try(self, read: Read) -> list[views.Event]:
        """What is read, or the problem that prevented it."""
        try:
            return [*read(self._connection.stack()), ("problem", None)]
        except Exception as error:  # noqa: BLE001 - the page shows it, and the next read may succeed
            text, status = describe(error)
            return [("problem", {"text": text, "is_missing": status is HTTPStatus.NOT_FOUND})]

    async def letters(self, _: Request) -> Response:
        """The messages in the dead-letter queues."""
        return _json({"letters": await run_in_threadpool(self._read_letters)})

    def _read_letters(self) -> list[dict[str, Any]]:
        with self._connection.dead_letters:
            return views.read_letters(self._connection.stack())

    async def media(self, request: Request) -> Response:
        """A byte range of a job's source or final."""
        stack, query = await run_in_threadpool(self._connection.stack), request.query_params
        wanted, is_download = request.headers.get("range"), "download" in query
        return await answer_media(stack.aws, _job_id(query), query.get("kind", ""), wanted, is_download=is_download)

    async def act(self, request: Request) -> Response:
        """Do what a button asks for."""
        try:
            asked = await request.json()
        except ValueError as error:
            raise UsageError("the body is not JSON") from error
        if not isinstance(asked, dict) or asked.get("verb") not in {*_VERBS, _REDRIVE}:
            raise UsageError(f"the verb must be one of {', '.join([*_VERBS, _REDRIVE])}")
        return _json(await run_in_threadpool(self._act, asked))

    def _act(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        stack = self._connection.stack()
        if asked["verb"] == _REDRIVE:
            with self._connection.dead_letters:
                return {"detail": _redrive(stack, asked)}
        done = _VERBS[asked["verb"]](stack, _job_id(asked), asked)
        return {**asdict(done), "detail": f"{done.job_id} {done.detail}"}


# Verbs ----------------------------------------------------------------------------------------------------------------


def _cancel(stack: Stack, job_id: str, _: Mapping[str, Any]) -> Outcome:
    return cancel_job(stack.aws, job_id, this_user())


def _retry(stack: Stack, job_id: str, asked: Mapping[str, Any]) -> Outcome:
    segments = str(asked.get("segments") or "")
    return retry_job(stack.aws, job_id, parse_ranges(segments) if segments else frozenset())


def _resend(stack: Stack, job_id: str, _: Mapping[str, Any]) -> Outcome:
    return resend_segments(stack.aws, job_id)


def _delete(stack: Stack, job_id: str, asked: Mapping[str, Any]) -> Outcome:
    return delete_job(stack.aws, job_id, keep_final=asked.get("keep_final") is True)


# The verbs of a job, and the one of messages.
_REDRIVE = "redrive"
_VERBS: Mapping[str, Callable[[Stack, str, Mapping[str, Any]], Outcome]] = {
    "cancel": _cancel,
    "retry": _retry,
    "resend": _resend,
    "delete": _delete,
}


def _redrive(stack: Stack, asked: Mapping[str, Any]) -> str:
    wanted = asked.get("messages")
    if not isinstance(wanted, list):
        raise UsageError("`messages` must be a list of message ids")
    with dead_letters_in(stack.aws.sqs, views.filled_pairs(stack)) as letters:
        chosen = [letter for letter in letters if letter.message_id in wanted]
        require_useful(stack.aws, chosen)
        redrive(stack.aws.sqs, letters, chosen)
    return f"{len(chosen)} of {len(wanted)} messages redriven"


# Answers --------------------------------------------------------------------------------------------------------------


def describe(error: Exception) -> tuple[str, HTTPStatus]:
    """An error as a text for a person, and the status of the response."""
    from media_worker_cli.main import describe_error  # noqa: PLC0415 - main imports the commands

    described = describe_error(error)
    if described is None:
        logging.getLogger(__name__).error("Request failed", exc_info=error)
        return f"an error of media-worker itself: {type(error).__name__}: {error}", HTTPStatus.INTERNAL_SERVER_ERROR
    return described[0], _STATUS_OF.get(type(error), HTTPStatus.BAD_GATEWAY)


def _answering_errors(endpoint: Endpoint) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:  # noqa: BLE001 - the page shows it
            text, status = describe(error)
            return JSONResponse({"error": text}, status, headers=_NO_STORE)

    return answer


def _job_id(asked: Mapping[str, Any]) -> str:
    job_id = str(asked.get("job", ""))
    require_job_id(job_id)
    return job_id


def _json(data: Any) -> Response:
    return Response(_dump(data), media_type="application/json", headers=_NO_STORE)


def _as_event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {_dump(data)}\n\n"


_dump = partial(json.dumps, default=str, separators=(",", ":"))
