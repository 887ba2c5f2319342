"""A hub on loopback: the endpoints that a push needs, by plain HTTP, and all that came in."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml


class Hub(ThreadingHTTPServer):
    """The endpoints of a hub that a push needs. `requests`: (method, path, headers, body) of all that came in."""

    def __init__(self, refuse=""):
        """`refuse`: the beginning of the paths that are answered with 401 and what was sent."""
        super().__init__(("127.0.0.1", 0), Endpoints)
        self.refuse, self.requests, self.objects, self.files = refuse, [], {}, {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Endpoints(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        path, _, _ = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, path, dict(self.headers), body))
        if self.server.refuse and path.startswith(self.server.refuse):
            return self.answer(
                401, {"error": f"Invalid username or password; you sent {self.headers['Authorization']}"}
            )
        if path.startswith("/objects/"):
            self.server.objects[path.removeprefix("/objects/")] = body
            return self.answer(200, {})
        known = {
            "/api/repos/create": lambda _: {"url": f"{self.server.url}/me/aligned"},
            "/api/models/me/aligned/auth-check/write": lambda _: {},
            "/api/validate-yaml": self.validate,
            "/api/models/me/aligned/preupload/main": self.preupload,
            "/me/aligned.git/info/lfs/objects/batch": self.batch,
            "/api/models/me/aligned/commit/main": self.commit,
        }
        if path not in known:
            return self.answer(404, {"error": "not found"})
        return self.answer(*known[path](body)) if path == "/api/validate-yaml" else self.answer(200, known[path](body))

    do_PUT = do_GET = do_POST

    def validate(self, body):
        """The hub refuses a card whose base model is no name of a repository."""
        matter = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        right = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", matter.get("base_model", "none"))
        return (200, {"warnings": []}) if right else (400, {"errors": [{"message": '"base_model" is not valid'}]})

    def preupload(self, body):
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
        return {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}

    def batch(self, body):
        places = [
            (o, {"upload": {"href": f"{self.server.url}/objects/{o['oid']}"}}) for o in json.loads(body)["objects"]
        ]
        return {"transfer": "basic", "objects": [{**each, "actions": actions} for each, actions in places]}

    def commit(self, body):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.objects[value["oid"]]
        return {"success": True, "commitUrl": f"{self.server.url}/me/aligned/commit/1", "commitOid": "1"}

    def answer(self, status, values):
        data = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass
