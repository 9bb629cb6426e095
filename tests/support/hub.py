"""A server in place of the Hugging Face hub, as far as an upload needs one."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub:
    """Keeps what is committed to its repositories. Use as a context manager.

    Attributes:
        files: Content of each file, by (repository, name).
        created: What was asked of each repository that was made.
        tokens: Authorization of all requests.
        messages: Messages of the commits.
        refuses: Status that answers a commit; None to accept it.
    """

    def __init__(self):
        self.files, self.created, self.tokens, self.messages, self.refuses = {}, [], set(), [], None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *unused):
        self.server.shutdown()
        self.server.server_close()

    def of(self, repository):
        return {name: content for (owner, name), content in self.files.items() if owner == repository}

    def post(self, path, body):
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.created.append(asked)
            return 200, {"url": f"{self.url}/{asked['organization']}/{asked['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        repository, what = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path).groups()
        if what == "preupload":
            named = [each["path"] for each in json.loads(body)["files"]]
            return 200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in named]}
        if self.refuses:
            return self.refuses, {"error": "no write access"}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            else:
                self.files[repository, value["path"]] = base64.b64decode(value["content"])
        return 200, {"commitUrl": f"{self.url}/{repository}/commit/{'1' * 40}", "commitOid": "1" * 40}


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            hub.tokens.add(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = hub.post(self.path.partition("?")[0], body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            repository, name = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", self.path).groups()
            content = hub.files.get((repository, name))
            self.send_response(200 if content is not None else 404)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            digest = hashlib.sha1(content or b"").hexdigest()
            self.send_header("X-Repo-Commit", digest)
            self.send_header("ETag", f'"{digest}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET

        def log_message(self, *unused):
            pass

    return Handler
