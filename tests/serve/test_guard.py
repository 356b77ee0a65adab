"""What the page takes from its callers, around an application that only counts what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from starlette.applications import Starlette  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import HTMLResponse, PlainTextResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from diffmic_jax.cli import main as cli  # noqa: E402
from diffmic_jax.serve import app as served  # noqa: E402
from diffmic_jax.serve.connections import Connection  # noqa: E402
from diffmic_jax.serve.guard import COOKIE, Access, Guard, Limits, is_loopback  # noqa: E402
from tests.browsers import chromium  # noqa: E402

LIMITS = Limits(body=1000, bodies=2500, waiting=3, grace=0.5, rate=1000)
HOST = "127.0.0.1:8000"
GO = "go on"


async def length(request: Request) -> Response:
    """The length of the body; waits where it is asked to."""
    found = len(await request.body())
    if wait := request.headers.get(GO.replace(" ", "-")):
        await asyncio.sleep(float(wait))
    return PlainTextResponse(f"{found} bytes")


async def breaks(request: Request) -> Response:
    raise RuntimeError("a secret")


APP = Starlette(
    routes=[Route("/", length, methods=["GET", "POST"]), Route("/breaks", breaks, methods=["POST"])]
)


@contextlib.contextmanager
def running(guard: Any, idle: float = 30.0) -> Iterator[int]:
    """A port at which the application is served."""
    protocol = type("Impatient", (Connection,), {"idle": idle, "most": 20})
    config = uvicorn.Config(guard, port=0, log_level="critical", ws="none", http=protocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(Guard(APP, Access(hosts=("127.0.0.1", "[::1]")), LIMITS)) as found:
        yield found


@pytest.fixture(scope="module")
def remote() -> Iterator[int]:
    with running(Guard(APP, Access(hosts=("*",), token="s3cret"), LIMITS)) as found:
        yield found


def ask(
    port: int, method: str = "POST", path: str = "/", body: bytes = b"", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    """Status, text and headers of a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": HOST, **own})
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"Origin": f"http://{HOST}"}, 200),
        ({"Origin": f"http://{HOST}", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),  # another server on this machine
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": f"http://{HOST}", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 400),
        ({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, 200),
        ({"Host": "[::1"}, 200),
        ({"Host": ""}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
    ],
)
def test_a_page_of_another_site_cannot_post(port, headers, status):
    assert ask(port, body=b"abc", **headers)[0] == status


@pytest.mark.parametrize(
    ("dest", "status"), [("document", 200), ("image", 403), ("iframe", 403), ("empty", 403)]
)
def test_a_link_leads_here_but_nothing_embeds_the_page(port, dest, status):
    found = ask(port, "GET", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest=dest)
    assert found[0] == status


@pytest.mark.parametrize("path", ["/", "/breaks", "/none"])
def test_every_response_has_the_headers(port, path):
    for headers in ({}, {"Origin": "null"}, {"Host": "evil.example"}):
        _, text, found = ask(port, path=path, body=b"abc", **headers)
        assert found["Content-Security-Policy"].startswith("default-src 'none'")
        assert found["X-Content-Type-Options"] == "nosniff"
        assert found["X-Frame-Options"] == "DENY"
        assert found["Cross-Origin-Resource-Policy"] == "same-origin"
        assert found["Referrer-Policy"].split(", ") == ["no-referrer", "same-origin"]
        assert found["Cache-Control"] == "no-store"
        assert found["Access-Control-Allow-Origin"] is None
        assert "secret" not in text


def test_a_body_is_refused_by_the_length_it_states_and_by_the_length_it_has(port):
    assert ask(port, body=bytes(1000))[:2] == (200, "1000 bytes")
    assert ask(port, body=bytes(1001))[0] == 413
    in_chunks = b"".join(b"c8\r\n" + bytes(200) + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as raw:
        head = f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head.encode() + in_chunks)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_comes_too_slowly_is_refused(port):
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 900\r\n\r\n".encode())
        raw.sendall(b"abc")
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_what_is_too_much_at_once_gets_429_and_the_rest_its_answer(port):
    found: list[int] = []

    def post() -> None:
        found.append(ask(port, body=b"abc", go_on="1")[0])

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200, 200, 200, 429, 429, 429]
    assert ask(port, body=b"abc")[0] == 200
    guard = Guard(APP, Access(hosts=("*",)), LIMITS)
    for _ in range(2):
        guard.count(1000, 1000)
    with pytest.raises(Exception, match="too much is being sent at once"):
        guard.count(600, 600)


def test_a_token_is_asked_for_and_remembered(remote):
    status, text, _ = ask(remote, "GET")
    assert (status, "token" in text) == (403, True)
    assert ask(remote, "GET", "/?token=wrong")[0] == 403
    assert ask(remote, "GET", "/?token=s3cret", Sec_Fetch_Site="none")[0] == 200
    cookie = ask(remote, "GET", "/?token=s3cret")[2]["Set-Cookie"]
    assert cookie == f"{COOKIE}=s3cret; HttpOnly; SameSite=Strict; Path=/"
    assert ask(remote, body=b"abc", Cookie=cookie.partition(";")[0])[:2] == (200, "3 bytes")
    assert ask(remote, body=b"abc", Authorization="Bearer s3cret")[0] == 200
    assert ask(remote, body=b"abc", Cookie=f"{COOKIE}=s3cre")[0] == 403
    assert ask(remote, body=b"abc", Cookie="=\x01;;;=")[0] == 403
    foreign = {"Cookie": f"{COOKIE}=s3cret", "Origin": "http://evil.example"}
    assert ask(remote, body=b"abc", **foreign)[0] == 403


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 900\r\n\r\nabc",
    ],
    ids=["nothing", "half a head", "half a body that nobody wants"],
)
def test_a_connection_without_a_request_in_work_ends(sent):
    guard = Guard(APP, Access(hosts=("127.0.0.1",)), LIMITS)
    with running(guard, idle=0.3) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(sent)
            with contextlib.suppress(ConnectionResetError):
                while raw.recv(1000):
                    pass
        # One that is in work longer than that is let.
        assert ask(port, body=b"abc", go_on="0.6")[0] == 200


def test_there_are_no_more_connections_than_can_be_served():
    with running(Guard(APP, Access(hosts=("127.0.0.1",)), LIMITS)) as port:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                ask(port, body=b"abc")
        time.sleep(0.1)
        assert ask(port, body=b"abc")[0] == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("example.org", False)),
    ],
)
def test_addresses_of_this_machine_alone(host, local):
    assert is_loopback(host) is local


def test_an_address_that_others_reach_has_to_be_asked_for(tmp_path, capsys):
    assert cli.main(["serve", f"--workdir={tmp_path}", "--host=0.0.0.0"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: --host=0.0.0.0: other machines can reach this address; add --al")


@pytest.mark.parametrize(
    ("host", "flags", "begins"),
    [
        ("::1", [], "http://[::1]:"),
        ("127.0.0.1", [], "http://127.0.0.1:"),
        ("0.0.0.0", ["--allow-remote"], "http://0.0.0.0:"),
    ],
)
def test_the_address_that_is_printed(monkeypatch, capsys, host, flags, begins):
    made: list[tuple] = []
    monkeypatch.setattr(served, "load", lambda workdir: None)
    monkeypatch.setattr(
        served, "make_app", lambda model, hosts, **kwargs: made.append((hosts, kwargs["token"]))
    )
    monkeypatch.setattr(served.uvicorn.Server, "run", lambda self, sockets: None)
    assert cli.main(["serve", "--workdir=w", f"--host={host}", "--port=18231", *flags]) == 0
    printed = capsys.readouterr().out
    ((hosts, token),) = made
    assert printed.startswith(begins)
    assert ("*" in hosts) is bool(flags)
    assert len(token) == (32 if flags else 0)
    assert (f"/?token={token} " in printed) is bool(flags)


FOREIGN_PAGE = """<!DOCTYPE html><title>waits</title>
<iframe name=sink></iframe><iframe src="{url}" id=frame></iframe><img src="{url}" id=image>
<form method=post action="{url}" target=sink><input name=a value=b></form>
<script>
const attempt = (options) => fetch("{url}", options)
  .then(answer => answer.text()).then(text => "read " + text, error => "refused");
(async () => {{
  const post = {{method: "POST", body: "abc"}};
  const tries = [{{}}, post, {{...post, mode: "no-cors"}}, {{...post, headers: {{"X-A": "b"}}}}];
  const found = [];
  for (const each of tries) found.push(await attempt(each));
  document.forms[0].submit();
  await new Promise(done => setTimeout(done, 500));
  let inside = "refused";
  try {{ inside = "read " + frames[1].document.body.innerText }} catch (error) {{}}
  found.push(inside, document.getElementById("image").naturalWidth);
  document.title = found.join("; ");
}})();
</script>"""


def test_a_page_of_another_origin_reads_nothing_in_a_real_browser(port):
    html = FOREIGN_PAGE.format(url=f"http://127.0.0.1:{port}/")
    foreign = Starlette(routes=[Route("/", lambda request: HTMLResponse(html))])
    statuses: list[tuple[str, int]] = []
    with running(foreign) as other, chromium() as browser:
        page = browser.new_page()
        page.on(
            "response",
            lambda answer: (
                statuses.append((answer.request.method, answer.status))
                if f":{port}/" in answer.url
                else None
            ),
        )
        page.goto(f"http://localhost:{other}/")
        page.wait_for_function("document.title != 'waits'")
        title = page.title()
    assert title == "refused; refused; refused; refused; refused; 0"
    assert statuses and all(status == 403 for method, status in statuses if method == "POST")
