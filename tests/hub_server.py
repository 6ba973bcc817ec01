"""A small Hub on the loopback that speaks the protocol of the Hugging Face Hub, as far as its client asks for it.

It creates repositories, takes files (regular ones in the commit, large ones by LFS), makes atomic commits and pull
requests, and serves files with ETag, redirects and ranges. Every access is checked against its tokens. Faults can be
put in its way: error answers, connections that are cut, bodies that are short or altered.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import socket
import struct
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

import yaml

LARGE = (".safetensors", ".png", ".bin")
"""The endings of files that a repository keeps in LFS."""
ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LARGE).encode()


@dataclass
class Repository:
    """The commits of a repository, and where its branches point."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, contents: dict[str, bytes], ref: str = "main") -> str:
        names = repr((len(self.commits), sorted((name, sha256(data)) for name, data in contents.items())))
        oid = hashlib.sha1(names.encode()).hexdigest()
        self.commits[oid], self.refs[ref] = dict(contents), oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)

    @property
    def head(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose "METHOD path" matches ``request`` from its start.

    A ``status`` is answered, with ``headers``; or the body ends after ``cut`` bytes, where the connection is dropped
    or, if it is ``short``, the answer says that it is no longer; or a byte of the body is ``altered``.
    """

    request: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    short: bool = False
    altered: bool = False
    unanswered: bool = False
    """Whether the connection is dropped before the request is done."""
    loses: str | None = None
    """The file that a commit leaves out, though it is answered as any other."""
    reset: bool = False
    """Whether the connection is reset, as by a router, before the request is done."""
    seconds: float = 0.0
    """How long the answer is waited for."""
    together: threading.Barrier | None = None
    """Where the requests wait until as many as it counts have come."""


class HubServer(http.server.ThreadingHTTPServer):
    """The server and all it holds."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.tokens: dict[str, set[str]] = {"hf_owner": {"somebody"}, "hf_reader": set()}
        """The tokens, and the names under which each may write."""
        self.requests: list[str] = []
        self.authorizations: set[str | None] = set()
        self.ranges: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, contents: dict[str, bytes], **options) -> str:
        """A new repository with one commit; its commit."""
        repository = self.repositories.setdefault(name, Repository(**options))
        return repository.commit(contents)

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.match(fault.request, request):
                    fault.times -= 1
                    return fault
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    server: HubServer

    def do_GET(self):
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_request(self):
        url = urllib.parse.urlsplit(self.path)
        path = self.path_asked = urllib.parse.unquote(url.path)
        self.query = urllib.parse.parse_qs(url.query)
        self.body = self.read_body()
        with self.server.lock:
            self.server.requests.append(f"{self.command} {path}")
            self.server.authorizations.add(self.headers.get("Authorization"))
        self.fault = self.server.fault_of(f"{self.command} {path}")
        if self.fault and self.fault.seconds:
            time.sleep(self.fault.seconds)
        if self.fault and self.fault.together:
            self.fault.together.wait()
        if self.fault and self.fault.unanswered:
            return None
        if self.fault and self.fault.reset:
            return self.reset_connection()
        if self.fault and self.fault.status:
            return self.fail(self.fault.status, headers=self.fault.headers)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            return self.fail(401, message="Invalid credentials in Authorization header")
        self.token = token
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return answer(self, **found.groupdict())
        self.fail(404)

    def reset_connection(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    # Answers

    def send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None):
        fault = self.fault
        if fault and fault.altered and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        cut = data if fault is None or fault.cut is None else data[: fault.cut]
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(cut if fault and fault.short else data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(cut)
            self.wfile.flush()

    def send_json(self, content, status: int = 200, headers: dict[str, str] | None = None):
        self.send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def fail(self, status: int, code: str | None = None, message: str = "", headers: dict[str, str] | None = None):
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self.send_json({"error": message}, status, {k: v for k, v in told.items() if v} | (headers or {}))

    def log_message(self, *arguments):
        pass

    # Rights

    def may_write(self, name: str) -> bool:
        return name.split("/")[0] in self.server.tokens.get(self.token, ())

    def found(self, name: str, write: bool = False) -> Repository | None:
        """The repository; None, and an error was answered, if it is not there for this token."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.may_write(name)):
            self.fail(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return None
        if write and not self.may_write(name):
            self.fail(403 if self.token else 401, message="You have no right to write here")
            return None
        return repository

    # What it is asked

    def whoami(self):
        if not self.token:
            return self.fail(401, message="Invalid username or password.")
        self.send_json({"type": "user", "name": self.token, "orgs": []})

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('organization')}/{asked['name']}"
        if not self.may_write(name):
            return self.fail(403 if self.token else 401, message=f"You have no right to create {name}")
        with self.server.lock:
            if name in self.server.repositories:
                return self.fail(409, message="You already created this model repo")
            private = asked.get("private") or asked.get("visibility") == "private"
            repository = self.server.repositories[name] = Repository(private=bool(private))
            repository.commit({".gitattributes": ATTRIBUTES})
        self.send_json({"url": f"{self.server.url}/{name}"})

    def info(self, name: str, revision: str | None = None):
        if (repository := self.found(name)) is None:
            return
        oid = repository.resolve(revision or "main")
        if oid is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        contents = repository.commits[oid]
        told = ("rfilename", "size", "blobId", "lfs") if "blobs" in self.query else ("rfilename",)
        siblings = [{key: value for key, value in sibling(*file).items() if key in told} for file in contents.items()]
        matter = re.match(r"---\n(.*?)\n---", contents.get("README.md", b"").decode(), re.DOTALL)
        card = yaml.safe_load(matter[1]) if matter else {}
        self.send_json(
            {
                "id": name, "sha": oid, "private": repository.private, "gated": "auto" if repository.gated else False,
                "siblings": siblings, "cardData": card,
                "library_name": card.get("library_name"), "tags": card.get("tags", []),
            }
        )  # fmt: skip

    def tree(self, name: str, revision: str):
        if (repository := self.found(name)) is None:
            return
        if (oid := repository.resolve(revision)) is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        self.send_json([described(file, data) for file, data in repository.commits[oid].items()])

    def resolve(self, name: str, revision: str, file: str):
        if (repository := self.found(name)) is None:
            return
        if repository.gated and not self.may_write(name):
            return self.fail(403 if self.token else 401, "GatedRepo", f"Access to model {name} is restricted")
        if (oid := repository.resolve(revision)) is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if file not in repository.commits[oid]:
            return self.fail(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": oid})
        data = repository.commits[oid][file]
        if is_large(file):
            self.server.stored[sha256(data)] = data
            linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": oid}
            # Another host, as on the Hub, to which the client does not send its token.
            elsewhere = f"http://localhost:{self.server.server_port}/stored/{sha256(data)}"
            return self.send(b"", 302, {"Location": elsewhere, **linked})
        self.send_file(data, {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": oid})

    def get_stored(self, oid: str):
        self.send_file(self.server.stored[oid], {"ETag": f'"{oid}"'})

    def send_file(self, data: bytes, headers: dict[str, str]):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.send(data, headers={"Accept-Ranges": "bytes", **headers})
        self.server.ranges.append(self.headers["Range"])
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        if first >= len(data):
            return self.fail(416, headers={"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.send(data[first : last + 1], 206, headers)

    def validate(self):
        content = json.loads(self.body)["content"]
        matter = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        try:
            base = (yaml.safe_load(matter[1]) or {}).get("base_model", "some/model")
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
                raise TypeError(f'"base_model" with value "{base}" is not valid. Use a model id from the Hub.')
        except (TypeError, yaml.YAMLError) as error:
            return self.send_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        self.send_json({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str):
        if (repository := self.found(name, write=True)) is None:
            return
        held = repository.commits[repository.resolve(revision)]
        answers = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            answer = {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
            if path in held:
                answer["oid"] = sha256(held[path]) if is_large(path) else git_hash(held[path])
            answers.append(answer)
        self.send_json({"files": answers})

    def batch(self, name: str):
        if self.found(name, write=True) is None:
            return
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.stored:
                links = {
                    action: {"href": f"{self.server.url}/{action}/{asked['oid']}"} for action in ("upload", "verify")
                }
                answer["actions"] = links
            objects.append(answer)
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str):
        if sha256(self.body) != oid:
            return self.fail(400, message="The content does not have this SHA-256")
        self.server.stored[oid] = self.body
        self.send(b"")

    def verify(self, oid: str):
        asked = json.loads(self.body)
        if len(self.server.stored.get(oid, b"")) != asked["size"]:
            return self.fail(400, message="The size differs")
        self.send(b"")

    def make_commit(self, name: str, revision: str):
        if (repository := self.found(name, write=True)) is None:
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        with self.server.lock:
            head = repository.refs["main"]
            pull = "create_pr" in self.query
            parent = lines[0]["value"].get("parentCommit")
            if parent not in (None, head) and not pull:
                return self.fail(412, message="A commit has happened since. Please refresh and try again.")
            contents = dict(repository.commits[parent or head])
            try:
                for line in lines[1:]:
                    self.apply(line["key"], line["value"], contents)
            except KeyError as error:
                return self.fail(400, message=f"missing: {error}")
            if self.fault and self.fault.loses:
                contents.pop(self.fault.loses)
            number = sum(ref.startswith("refs/pr/") for ref in repository.refs) + 1
            oid = repository.commit(contents, f"refs/pr/{number}" if pull else "main")
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}"}
        if pull:
            answer["pullRequestUrl"] = f"{self.server.url}/{name}/discussions/{number}"
        self.send_json(answer)

    def apply(self, key: str, value: dict, contents: dict[str, bytes]) -> None:
        if key == "file":
            contents[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            contents[value["path"]] = self.server.stored[value["oid"]]
        elif key == "deletedFile":
            del contents[value["path"]]


REPO = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"GET /api/models/{REPO}", Handler.info),
    (rf"GET /api/models/{REPO}/revision/(?P<revision>.+)", Handler.info),
    (rf"GET /api/models/{REPO}/tree/(?P<revision>[^/]+)/?", Handler.tree),
    (rf"POST /api/models/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    (rf"POST /api/models/{REPO}/commit/(?P<revision>.+)", Handler.make_commit),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /upload/(?P<oid>\w+)", Handler.upload),
    (r"POST /verify/(?P<oid>\w+)", Handler.verify),
    (r"(GET|HEAD) /stored/(?P<oid>\w+)", Handler.get_stored),
    (rf"(GET|HEAD) /{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", Handler.resolve),
]


def is_large(file: str) -> bool:
    return file.endswith(LARGE)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def described(file: str, data: bytes) -> dict:
    """A file as in the list of a repository's files."""
    entry = {"type": "file", "path": file, "size": len(data), "oid": git_hash(data)}
    if is_large(file):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
    return entry


def sibling(file: str, data: bytes) -> dict:
    """A file as in the description of a repository."""
    entry = {"rfilename": file, "size": len(data), "blobId": git_hash(data)}
    if is_large(file):
        entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
    return entry


@contextlib.contextmanager
def running():
    """A running server, stopped at the end."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
