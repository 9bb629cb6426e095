"""The demo's door: which of Gradio's routes are open, to whom, and how much may be sent. `app/demo/guard.py`."""

import http.client
import json
import re
import socket
import time
from pathlib import Path

import pytest

from app.address import AddressError, check_address
from app.demo import guard, start, uploads
from app.demo.guard import OPEN, Guard
from app.demo.uploads import Uploads
from tests.support.demo_captioner import talking_captioner
from vlcap.errors import is_expected

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
# Routes of Gradio that the page and its API do not need. A route in neither list fails a test: look at what it does.
CLOSED = {
    *("/login", "/logout", "/monitoring", "/monitoring/summary", "/monitoring/{key}"),
    *("/gradio_api/user", "/gradio_api/login_check", "/gradio_api/token", "/gradio_api/dev/reload"),
    *("/gradio_api/runs", "/gradio_api/run-history/connect", "/gradio_api/run-history/buckets"),
    *("/gradio_api/run-history/records", "/gradio_api/deep_link", "/gradio_api/proxy={url_path:path}"),
    "/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}",
    "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}",
    *("/gradio_api/stream/{event_id}", "/gradio_api/stream/{event_id}/close", "/gradio_api/file/{path:path}"),
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file",
    *("/gradio_api/api/{api_name}", "/gradio_api/component_server", "/gradio_api/process_recording"),
    *("/gradio_api/queue/status", "/gradio_api/vibe-edit", "/gradio_api/undo-vibe-edit", "/gradio_api/vibe-code"),
    *("/gradio_api/vibe-starter-queries", "/openapi.json"),
}
# Routes that are open, of which only some addresses are.
PARTLY = {
    "/gradio_api/run/{api_name}": "/gradio_api/run/predict",
    "/gradio_api/call/{api_name}": "/gradio_api/call/caption",
    "/gradio_api/call/v2/{api_name}": "/gradio_api/call/v2/caption",
    "/gradio_api/call/{api_name}/{event_id}": "/gradio_api/call/caption/1",
    "/gradio_api/call/v2/{api_name}/{event_id}": "/gradio_api/call/v2/caption/1",
    "/pwa_icon/{size}": "/pwa_icon/192",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # its own folder: Gradio's is shared with the tests that run beside it
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page = start(talking_captioner())
        yield page
        page.close(verbose=False)


def ask(page, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of a response; the text is cut where the response would go on for ever."""
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    response = connection.getresponse()
    text = response.read(20_000).decode(errors="replace") if response.status >= 400 else ""
    connection.close()
    return response.status, text


def post(page, path: str, body: object, **headers: str) -> tuple[int, str]:
    return ask(page, "POST", path, json.dumps(body).encode(), Content_Type="application/json", **headers)


def upload(page, data: bytes, name: str = "photo.png", **headers: str) -> tuple[int, str]:
    body = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n--x--"
    )
    return ask(page, "POST", guard.UPLOAD, body, Content_Type="multipart/form-data; boundary=x", **headers)


def routes(page) -> dict[str, set[str]]:
    """Methods by path of all routes of the served app."""
    found: dict[str, set[str]] = {}
    left = list(page.app.routes)
    while left:
        route = left.pop()
        if hasattr(route, "original_router"):  # newer FastAPI keeps routers whole
            left += route.original_router.routes
            continue
        assert hasattr(route, "path") and hasattr(route, "methods"), f"neither known nor probed: {route!r:.200}"
        found.setdefault(route.path.rstrip("/") or "/", set()).update(route.methods or ())
    assert len(found) > 50
    return found


def methods_open_at(path: str) -> set[str]:
    return {method for methods, pattern in OPEN if re.fullmatch(pattern, path) for method in methods}


def address(route: str) -> str:
    return PARTLY.get(route) or re.sub(r"\{[^}]*\}", "1", route)


@pytest.mark.slow
def test_every_route_with_every_method(page):
    """A route that nobody has looked at fails, so that a new version of Gradio can't open one silently."""
    for route, methods in routes(page).items():
        path = address(route)
        opened = methods_open_at(path) & (methods | {"HEAD"})
        assert bool(opened) != (route in CLOSED), f"{route}: is it open or closed? See OPEN and CLOSED"
        for method in METHODS:
            if method in methods_open_at(path):
                continue
            status, _ = ask(page, method, path)
            assert status == (405 if opened else 404), f"{method} {path} answered {status}"
            if route not in CLOSED:
                assert ask(page, method, path + "/")[0] in (404, 405)


def test_open_routes_are_there(page):
    """What is open is a route of Gradio's; none of them fails without values, or does anything."""
    found = {address(route) for route in routes(page)}
    for _, pattern in OPEN:
        assert any(re.fullmatch(pattern, path) for path in found), pattern
    for path in ("/", "/config", "/theme.css", "/gradio_api/info", "/gradio_api/startup-events"):
        assert ask(page, "GET", path)[0] == 200, path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["caption", "predict"])
@pytest.mark.parametrize("way", ["run", "api"])
def test_no_captioner_past_the_queue(page, name, way):
    """D1: a plain POST would run at once, beside all others, each with a photo in memory."""
    values = [None, 3, "tiny_random"]
    for number, function in page.fns.items():
        status, _ = post(page, f"/gradio_api/{way}/{name}", {"data": values, "fn_index": number})
        assert status == 404 or not function.queue, (number, function)
    assert post(page, f"/gradio_api/{way}/{name}", {"data": values})[0] in (404, 500)


def test_what_skips_the_queue_needs_no_photo(page):
    """D1: only these functions may be called at once; none of them reads a photo or runs a model."""
    at_once = {function.fn.__name__ for function in page.fns.values() if not function.queue and function.fn}
    assert at_once == {"<lambda>", "change"}  # an example, the fields of sampling, another model


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
def test_this_machines_names_are_answered(page, host):
    assert ask(page, "GET", "/config", Host=f"{host}:{page.server_port}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "10.0.0.1", "["]
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/config"), ("OPTIONS", "/"), ("POST", guard.UPLOAD)]
)
def test_other_names_are_refused(page, host, method, path):
    """D6: a stranger's name that leads to this machine (DNS rebinding)."""
    status, text = ask(page, method, path, Host=host, Access_Control_Request_Method="POST", Origin="http://a.example")
    assert status in (400, 403) and "gradio" not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another server of this machine
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_sites_can_store_and_ask_nothing(page, headers):
    """D6: fetch(..., {mode: "no-cors"}) of a page elsewhere."""
    before = set(Path(page.app.uploaded_file_dir).rglob("*"))
    assert upload(page, b"stored by another site", **headers)[0] == 403
    assert post(page, "/gradio_api/call/caption", {"data": [None]}, **headers)[0] == 403
    assert set(Path(page.app.uploaded_file_dir).rglob("*")) == before


def test_the_page_itself_and_programs_may(page):
    own = f"http://127.0.0.1:{page.server_port}"
    for headers in ({"Origin": own, "Sec_Fetch_Site": "same-origin"}, {}):
        assert upload(page, b"data", **headers)[0] == 200
    assert ask(page, "GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link
    assert ask(page, "GET", "/config", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403


@pytest.mark.parametrize(
    ("host", "shared", "own", "foreign"),
    [
        ("0.0.0.0", None, ["192.168.1.5:7860", "localhost", "[fe80::1]"], ["evil.example", "192.168.1.5.evil.example"]),
        ("photos.lan", None, ["photos.lan:7860", "PHOTOS.lan"], ["evil.lan", "192.168.1.5"]),
        ("127.0.0.1", "abc.gradio.live", ["abc.gradio.live"], ["other.gradio.live"]),
    ],
)
def test_names_of_a_page_for_others(tmp_path, host, shared, own, foreign):
    door = Guard(None, host, Uploads(tmp_path, own=False), lambda: shared)
    assert all(map(door.is_own, own)) and not any(map(door.is_own, foreign))


def test_a_request_is_bounded(page):
    """It is answered before its body has come, so no body is sent here: a send could break off in the middle."""
    status, text = ask(page, "POST", "/gradio_api/queue/join", Content_Length=str(2 * 1024**2))
    assert status == 413 and "at most 1024 KB" in text


def test_uploads_share_a_quota(page, monkeypatch):
    """D5: files that are never captioned. Whole and broken off, known and unknown in size."""
    folder = Path(page.app.uploaded_file_dir)
    used = Uploads(folder, own=False).used()
    monkeypatch.setattr(uploads, "QUOTA", used + 1_000_000)
    before = set(folder.rglob("*"))
    answers = [upload(page, bytes([number]) * 300_000) for number in range(5)]
    assert [status for status, _ in answers] == [200, 200, 200, 507, 507]
    assert "room for photos is full" in answers[-1][1]
    for path in set(folder.rglob("*")) - before:
        if path.is_file():
            path.unlink()


def join(page, body: object) -> str:
    """What the queue says in the end to a request."""
    status, text = post(page, "/gradio_api/queue/join", body)
    if status != 200:
        return text
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=20)
    connection.request("GET", f"/gradio_api/queue/data?session_hash={body['session_hash']}")
    said = connection.getresponse().read().decode()
    connection.close()
    return said


@pytest.mark.slow
def test_malformed_requests_leave_little_in_the_log(page, capfd):
    """D9: not what was sent, no traceback, and at most one line for each."""
    mark = "SECRET" * 100
    file = {"path": mark, "meta": {"_type": "gradio.FileData"}}
    for number, function in page.fns.items():
        if function.queue:
            size = len(function.inputs)
            for data in (
                [mark],
                [mark] * size,
                [{"path": mark}] * size,
                [file] * size,
                [],
                [None] * (size - 1) + [mark],
            ):
                join(page, {"data": data, "fn_index": number, "session_hash": f"s{number}"})
    bad: tuple = ({"fn_index": 999, "data": [mark]}, {"fn_index": mark}, [mark], {"data": mark}, {})
    for body in bad:
        post(page, "/gradio_api/queue/join", body if isinstance(body, list) else {"session_hash": "t", **body})
        post(page, "/gradio_api/run/predict", body)
        post(page, "/gradio_api/call/caption", body)
        post(page, "/gradio_api/call/v2/caption", body)
    ask(page, "POST", "/gradio_api/queue/join", mark.encode(), Content_Type="application/json")
    time.sleep(0.5)
    said = "".join(capfd.readouterr())
    assert "SECRET" not in said and "Traceback" not in said, said[:3000]
    assert all(line.startswith("vlcap: a request to ") for line in said.splitlines()), said[:3000]


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("evil.invalid", None, "--host evil.invalid: no such name: give an address of this machine"),
        ("192.0.2.1", 7999, "--host 192.0.2.1: not an address of this machine"),
        ("127.0.0.1", 99999, "--port 99999: there is no such port: choose one from 1024 to 65535"),
        ("127.0.0.1", 0, "--port 0: there is no such port: choose one from 1024 to 65535"),
        ("a..b", None, "--host a..b: no such name: give an address of this machine"),
    ],
)
def test_a_wrong_address_is_one_line(monkeypatch, host, port, said):
    """D9. The network is not asked: a resolver that knows no names stands in for it."""
    look_up = socket.getaddrinfo

    def unknown(name, *arguments, **keywords):
        if name == "evil.invalid":
            raise socket.gaierror(-2, "Name or service not known")
        return look_up(name, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(AddressError) as error:
        check_address(host, port)
    assert str(error.value) == said and is_expected(error.value)
