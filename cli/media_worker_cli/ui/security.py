"""Who may use the page: programs of this machine's other users and other web sites may not.

Every request passes the same checks, in this order: the Host header (a DNS name that was rebound to 127.0.0.1 is
refused), the browser's statement about the site that made the request, the session's token, and for everything that
changes something a second token in a header, which no other site can read or send.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ACTION_HEADER = "x-media-worker-action"
_JSON = "application/json"
# Nothing from elsewhere, no inline script or style, and no way to turn text into markup.
# https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Content-Security-Policy
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the server: its port and its two tokens."""

    port: int
    # Opens the page, and then is the cookie's value.
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    # In the page, for its requests that change something.
    action_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def url(self) -> str:
        """The address that opens the page."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def hosts(self) -> frozenset[str]:
        """The names under which a browser may reach the server."""
        return frozenset({f"127.0.0.1:{self.port}", f"localhost:{self.port}"})

    @property
    def cookie_name(self) -> str:
        """Cookies do not distinguish ports: the name does."""
        return f"media_worker_{self.port}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused."""

    status: HTTPStatus
    text: str


def refuse(request: Request, session: Session) -> Refusal | None:
    """Check a request. Returns None if it is allowed."""
    if request.headers.get("host") not in session.hosts:
        return Refusal(HTTPStatus.MISDIRECTED_REQUEST, "this host name is not served")
    if request.method not in {"GET", "POST"}:
        return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and POST are served")
    is_opening = request.method == "GET" and request.url.path == "/" and _same(_token(request), session.token)
    if is_opening:
        return None
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return Refusal(HTTPStatus.FORBIDDEN, "another site made this request")
    if not _same(request.cookies.get(session.cookie_name), session.token):
        return Refusal(HTTPStatus.UNAUTHORIZED, "open the address that `media-worker ui` printed")
    return _refuse_action(request, session) if request.method == "POST" else None


def _refuse_action(request: Request, session: Session) -> Refusal | None:
    headers = request.headers
    if headers.get("origin", f"http://{headers['host']}") != f"http://{headers['host']}":
        return Refusal(HTTPStatus.FORBIDDEN, "another site made this request")
    if not _same(headers.get(ACTION_HEADER), session.action_token):
        return Refusal(HTTPStatus.FORBIDDEN, "the page is out of date: reload it")
    if headers.get("content-type") != _JSON:
        return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {_JSON}")
    return None


def _token(request: Request) -> str | None:
    return request.query_params.get("token")


def _same(given: str | None, wanted: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), wanted.encode())


class Guard:
    """Refuses requests that may not use the page, and adds the security headers to every response."""

    def __init__(self, app: "ASGIApp", session: Session) -> None:
        self._app, self._session = app, session

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request."""

        async def send_with_headers(message: "Message") -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = refuse(Request(scope), self._session)
        answer = JSONResponse({"error": refusal.text}, refusal.status) if refusal else self._app
        await answer(scope, receive, send_with_headers)
