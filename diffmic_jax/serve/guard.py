"""What the page takes from its callers: from whom, how much, how fast, and how many at once.

One ASGI layer around the page. It knows nothing of what is shown, and refuses in plain text.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import ipaddress
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # Style sheet and script are files of this server; figures have styles in attributes.
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The last one that a browser knows counts. `no-referrer` alone would hide from this server
    # whether a form is its own, and other servers learn as little of `same-origin`.
    "Referrer-Policy": "no-referrer, same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every response."""
COOKIE = "diffmic_token"
SAFE_METHODS = ("GET", "HEAD")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Of what is taken in."""

    body: int = 200_000_000
    """Bytes of a request."""
    bodies: int = 300_000_000
    """Bytes of all requests that are not answered yet."""
    waiting: int = 256
    """Requests with a body that are not answered yet; a further one gets 429."""
    grace: float = 30.0
    """Seconds that a body may take to come at any rate."""
    rate: int = 50_000
    """Bytes per second that a body has to come at after that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """Who is let in."""

    hosts: tuple[str, ...]
    """Names of this server in a request, without a port; `*` for any."""
    token: str = ""
    """That a request has to know; empty: none."""

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason if a request is not let in.

        A page of another site can make a browser send requests here. It cannot hide where they come
        from, nor give this server's name without being this server, nor know the token.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if "*" not in self.hosts and _name(host) not in self.hosts:
            return 400, "Invalid host header"
        if not _is_own(headers, host, scope["method"]):
            return 403, "Refused: a page of another site asked for this"
        if self.token and not self.knows_token(scope):
            return 403, "Refused: open the address with its token, as `diffmic serve` printed it"
        return None

    def knows_token(self, scope: Scope) -> bool:
        """Whether a request has the token: in its address, as a cookie, or as a bearer."""
        headers = Headers(scope=scope)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        given.append(headers.get("authorization", "").removeprefix("Bearer "))
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        if COOKIE in cookies:
            given.append(cookies[COOKIE].value)
        return any(hmac.compare_digest(each.encode(), self.token.encode()) for each in given)


def _name(host: str) -> str:
    """A host without its port; an IPv6 address keeps its brackets."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _is_own(headers: Headers, host: str, method: str) -> bool:
    """Whether a request comes from no page, from this one, or is a link to it."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    foreign = site not in ("same-origin", "none")
    if method in SAFE_METHODS:
        # Embedded as an image, a frame or a script, the page would be another's.
        return not foreign or headers.get("sec-fetch-dest") == "document"
    return not foreign and (origin is None or origin.partition("://")[2].lower() == host)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from its own machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


class Guard:
    """The layer."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits | None = None) -> None:
        """Around an application."""
        self._app, self._access, self._limits = app, access, limits or Limits()
        self._waiting = 0
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = self._sending(scope, send)
        if refused := self._access.refusal(scope):
            await _refuse(*refused, scope, receive, send)
        elif scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
        elif int(Headers(scope=scope).get("content-length", "0")) > self._limits.body:
            await _refuse(413, self._too_large(), scope, receive, send)
        elif self._waiting >= self._limits.waiting:
            await _refuse(429, "Too many requests at once; try again later", scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with a body, as one of those that wait."""
        body = _Body(receive, self)
        self._waiting += 1
        try:
            await self._app(scope, body, send)
        finally:
            self._waiting -= 1
            self._bytes -= body.seen

    def _too_large(self) -> str:
        return f"more than {self._limits.body / 1e6:.0f} MB; send less"

    def count(self, received: int, seen: int) -> None:
        """Take bytes in.

        Args:
          received: so many more.
          seen: of the request so far.

        Raises:
          HTTPException: they are too many, of this request or of all.
        """
        self._bytes += received
        if seen > self._limits.body:
            raise HTTPException(413, self._too_large())
        if self._bytes > self._limits.bodies:
            raise HTTPException(429, "too much is being sent at once; try again later")

    def seconds(self, seen: int) -> float:
        """That a body may have taken for so many bytes."""
        return self._limits.grace + seen / self._limits.rate

    def _sending(self, scope: Scope, send: Send) -> Send:
        """With the headers of every response."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] in (408, 429):
                    headers.setdefault("Retry-After", "5")
                if self._access.token and message["status"] < 400:
                    cookie = f"{COOKIE}={self._access.token}; HttpOnly; SameSite=Strict; Path=/"
                    headers.append("Set-Cookie", cookie)
            await send(message)

        return guarded


class _Body:
    """Receives a body and counts it."""

    def __init__(self, receive: Receive, guard: Guard) -> None:
        self._receive, self._guard = receive, guard
        self._start = time.monotonic()
        self._done = False
        self.seen = 0

    async def __call__(self) -> Message:
        """The next message.

        Raises:
          HTTPException: the body is too large or too slow.
        """
        if self._done:  # what comes now is the end of the connection
            return await self._receive()
        left = self._start + self._guard.seconds(self.seen) - time.monotonic()
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "it came too slowly; send less, or send it again") from None
        received = len(message.get("body", b""))
        self.seen += received
        self._done = not message.get("more_body", False)
        self._guard.count(received, self.seen)
        return message


async def _refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(reason, status)(scope, receive, send)
