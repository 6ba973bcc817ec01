"""Models from the Hub: fetched, cached and pinned with its own client, from a server on this machine."""

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import zoo
from zoo import errors, files

CHECKOUT = Path(zoo.__file__).parent.parent
COMMIT, EARLIER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
REPOSITORY = "somebody/tiny"
LOAD = """
import json, sys
sys.path.insert(0, "tests")
import zoo
zoo.tasks.TASKS["translation"].networks["tiny"] = "tiny_network"
name, revision, action = sys.argv[1:]
try:
    if action == "load":
        print(json.dumps(zoo.load(name, revision=revision or None).translate(["Ein Hund"])))
    elif action == "info":
        print(json.dumps(str(zoo.info(name, revision=revision or None).folder)))
    else:
        print(json.dumps(str(zoo.registry.locate(name, revision or None))))
except (OSError, ValueError) as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hub that its client uses: revisions, the list of files, and the files."""

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body):
        server = self.server
        server.requests.append(self.path)
        path = self.path.split("?")[0]
        api = f"/api/models/{REPOSITORY}"
        if path in (f"{api}/revision/{name}" for name in ("main", COMMIT)):
            return self.send(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": []}).encode(), body)
        if path == f"{api}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": files.describe(data)["sha256"][:40]}
                for name, data in server.files.items()
            ]
            return self.send(json.dumps(tree).encode(), body)
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        if name in server.files:
            return self.send(server.files[name], body)
        missing = "EntryNotFound" if REPOSITORY in path else "RepoNotFound"
        missing = "RevisionNotFound" if f"/{EARLIER}" in path else missing
        self.send_response(404)
        self.send_header("X-Error-Code", missing)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, data, body):
        self.send_response(200)
        self.send_header("ETag", f'"{files.describe(data)["sha256"][:40]}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(saved):
    """A server with the saved model as a repository, which also holds files that must never be fetched."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    server.files = {path.name: path.read_bytes() for path in saved.iterdir()}
    server.files |= {"pytorch_model.bin": b"a pickle", "modeling.py": b"raise SystemExit", ".gitattributes": b""}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with contextlib.closing(server.socket):
        yield server
        server.shutdown()


@pytest.fixture
def ask(hub, tmp_path):
    """In a new process whose Hub is that server, load a repository, or ask for its info or its folder.

    Returns the translation, the folder, or the error.
    """

    def ask(name=REPOSITORY, revision="", action="folder", **environment):
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        }
        command = [sys.executable, "-c", LOAD, name, revision, action]
        result = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return ask


def test_a_repository_is_loaded_by_its_name(ask, saved):
    assert ask(action="load") == zoo.load(saved).translate(["Ein Hund"])


def test_a_repository_is_fetched_once_and_offline_or_pinned_it_then_needs_no_network(hub, ask, saved):
    folder = ask()
    assert zoo.load(folder).translate(["Ein Hund"]) == zoo.load(saved).translate(["Ein Hund"])
    assert any(path.endswith(files.WEIGHTS) for path in hub.requests)
    hub.requests.clear()
    assert ask(revision=COMMIT) == ask(HF_HUB_OFFLINE="1") == folder
    assert hub.requests == []
    assert ask() == folder
    assert not any(path.endswith(files.WEIGHTS) for path in hub.requests)


def test_only_files_that_hold_no_code_are_fetched(ask):
    fetched = {path.name for path in Path(ask()).iterdir()}
    assert fetched == {"README.md", "config.json", "metrics.json", "model.safetensors", "labels.json"}


def test_info_fetches_no_weights(hub, ask):
    folder = Path(ask(action="info"))
    assert folder.name == COMMIT
    assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.json"}
    assert not any(path.endswith(files.WEIGHTS) for path in hub.requests)


def test_a_commit_of_which_the_cache_has_a_part_is_completed(ask):
    for revision in ("", COMMIT):
        ask(revision=revision, action="info")
        assert zoo.load(ask(revision=revision)).translate(["Ein Hund"])


def test_offline_without_a_cache_is_one_clear_error(hub, ask):
    answer = ask(action="info", HF_HUB_OFFLINE="1")
    assert answer["error"] == "HubError"
    assert f"could not fetch '{REPOSITORY}' from the Hugging Face Hub" in answer["message"]
    assert hub.requests == []


@pytest.mark.parametrize(
    "name, revision", [("somebody/else", ""), (REPOSITORY, EARLIER), (REPOSITORY, "no-such-branch")]
)
def test_a_repository_or_revision_that_is_not_there_is_named(ask, name, revision):
    answer = ask(name, revision, action="info")
    assert answer["error"] == "HubError"
    assert f"could not fetch '{name}'" in answer["message"]
    assert revision in answer["message"]


def test_a_name_the_hub_would_never_have_is_an_error_without_a_request(hub, ask):
    assert ask("some--body/ti..ny", action="info")["error"] == "HubError"
    assert hub.requests == []


def test_weights_altered_on_the_way_are_refused(hub, ask):
    data = hub.files[files.WEIGHTS]
    hub.files[files.WEIGHTS] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(errors.DamagedModelError, match="expected SHA-256"):
        zoo.load(ask())


def test_a_local_folder_of_the_same_name_is_pointed_out(ask, tmp_path, network):
    zoo.save(network, tmp_path / "some" / "tiny")
    code = "import os, sys; os.chdir(sys.argv[1]); import zoo; zoo.info('some/tiny', revision='main')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(CHECKOUT)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert "To load the local folder of that name, write './some/tiny'" in result.stderr
