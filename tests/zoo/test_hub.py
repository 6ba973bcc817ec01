"""Models from the Hub: fetched, cached and pinned with its own client, from a server on this machine."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hub_server
import pytest
from hub_server import Fault

import zoo
from zoo import files
from zoo.hub import asked

CHECKOUT = Path(zoo.__file__).parent.parent
EARLIER = "f" * 40
REPOSITORY = "somebody/tiny"
LOAD = """
import json, sys
sys.path.insert(0, "tests")
import zoo
zoo.tasks.TASKS["translation"].networks["tiny"] = "tiny_network"
name, revision, action, largest = sys.argv[1:]
if largest:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
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


@pytest.fixture
def hub(saved):
    """A Hub with the saved model as a repository, which also holds files that must never be fetched."""
    contents = {path.name: path.read_bytes() for path in saved.iterdir()}
    strange = {"pytorch_model.bin": b"a pickle", "modeling.py": b"raise SystemExit", "extra.json": b"{}"}
    with hub_server.running() as server:
        server.commit = server.add(REPOSITORY, contents | strange)
        yield server


@pytest.fixture
def ask(hub, tmp_path):
    """In a new process whose Hub is that server, load a repository, or ask for its info or its folder.

    Returns the translation, the folder, or the error. ``largest`` is the most bytes that a file may have on its disk.
    """

    def ask(name=REPOSITORY, revision="", action="folder", largest="", **environment):
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            **environment,
        }
        command = [sys.executable, "-c", LOAD, name, revision, action, largest]
        result = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return ask


def cached(tmp_path) -> set[str]:
    """The names of all files in the cache that could be taken for a model's."""
    snapshots = (tmp_path / "hub").glob("hub/*/snapshots/*/*")
    return {path.name for path in snapshots if path.exists()}


def assert_refused(answer, *parts):
    """The answer is one HubError of one line that has these parts."""
    assert answer["error"] == "HubError", answer
    assert "\n" not in answer["message"]
    for part in parts:
        assert part in answer["message"]


def test_a_repository_is_loaded_by_its_name(ask, saved):
    assert ask(action="load") == zoo.load(saved).translate(["Ein Hund"])


def test_a_repository_is_fetched_once_and_offline_or_pinned_it_then_needs_no_network(hub, ask, saved):
    folder = ask()
    assert zoo.load(folder).translate(["Ein Hund"]) == zoo.load(saved).translate(["Ein Hund"])
    assert any("/stored/" in request for request in hub.requests)
    hub.requests.clear()
    assert ask(revision=hub.commit) == ask(HF_HUB_OFFLINE="1") == folder
    assert hub.requests == []
    assert ask() == folder
    assert not any("/stored/" in request for request in hub.requests)


def test_without_a_connection_the_cache_answers(hub, ask):
    folder = ask()
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    assert ask(**nowhere) == ask(revision=hub.commit, **nowhere) == folder


def test_without_a_connection_and_cache_the_error_is_of_the_connection(hub, ask):
    assert_refused(
        ask(HF_ENDPOINT="http://127.0.0.1:1"), f"could not fetch '{REPOSITORY}'", "refused", "to http://127.0.0.1:1"
    )


def test_a_connection_that_is_reset_is_no_error_of_the_disk(hub, ask):
    hub.faults = [Fault("GET /api/models", times=99, reset=True)]
    assert_refused(ask(), f"no connection to {hub.url}, or it broke off", "reset by peer")


def test_a_bug_in_a_request_is_not_taken_for_an_error_of_the_hub():
    with pytest.raises(TypeError, match="has no len"):
        asked(lambda: len(3), "could not fetch 'somebody/tiny'", REPOSITORY)


@pytest.mark.parametrize("status", [403, 503])
def test_a_hub_that_refuses_or_fails_leaves_what_the_cache_has_of_a_branch(hub, ask, status):
    folder = ask()
    hub.repositories[REPOSITORY].commit({})
    hub.faults = [Fault("GET /api/models", times=99, status=status)]
    assert ask() == folder
    hub.faults.clear()
    hub.repositories[REPOSITORY].private = True
    assert ask() == folder


def test_only_files_of_the_model_are_fetched(ask):
    fetched = {path.name for path in Path(ask()).iterdir()}
    assert fetched == {"README.md", "config.json", "metrics.json", "model.safetensors", "labels.json"}


def test_info_fetches_no_weights(hub, ask):
    folder = Path(ask(action="info"))
    assert folder.name == hub.commit
    assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.json"}
    assert not any("/stored/" in request for request in hub.requests)


def test_a_commit_of_which_the_cache_has_a_part_is_completed(hub, ask):
    for revision in ("", hub.commit):
        ask(revision=revision, action="info")
        assert zoo.load(ask(revision=revision)).translate(["Ein Hund"])


def test_offline_without_a_cache_is_one_clear_error(hub, ask):
    answer = ask(action="info", HF_HUB_OFFLINE="1")
    assert_refused(answer, f"could not fetch '{REPOSITORY}' from the Hugging Face Hub: HF_HUB_OFFLINE is set")
    assert hub.requests == []


@pytest.mark.parametrize(
    "name, revision, told",
    [
        ("somebody/else", "", "there is no repository"),
        (REPOSITORY, EARLIER, "it has no commit"),
        (REPOSITORY, "no-such-branch", "it has no commit"),
    ],
)
def test_a_repository_or_revision_that_is_not_there_is_named(ask, name, revision, told):
    assert_refused(ask(name, revision, action="info"), f"could not fetch '{name}'", revision, told)


def test_a_name_the_hub_would_never_have_is_an_error_without_a_request(hub, ask):
    assert ask("some--body/ti..ny", action="info")["error"] == "HubError"
    assert hub.requests == []


def test_a_private_repository_is_loaded_with_a_token_that_the_file_store_never_sees(hub, ask):
    hub.repositories[REPOSITORY].private = True
    assert_refused(ask(), "it is private", "HF_TOKEN")
    assert_refused(ask(HF_TOKEN="hf_reader"), "it is private", "HF_TOKEN")
    hub.authorizations.clear()
    assert Path(ask(HF_TOKEN="hf_owner")).name == hub.commit
    assert hub.authorizations == {"Bearer hf_owner", None}


def test_a_gated_repository_says_where_to_ask(hub, ask):
    hub.repositories[REPOSITORY].gated = True
    for token in ({}, {"HF_TOKEN": "hf_reader"}):
        assert_refused(ask(**token), f"access must be asked for at {hub.url}/{REPOSITORY}", "HF_TOKEN")


def test_an_invalid_token_is_told(ask):
    assert_refused(ask(HF_TOKEN="hf_typo"), "401", "HF_TOKEN")


def test_a_forbidden_request_is_told(hub, ask):
    hub.faults = [Fault("GET /api/models", times=99, status=403)]
    assert_refused(ask(), "403", "HF_TOKEN")


@pytest.mark.parametrize("request_", ["GET /api/models/.*/revision", "GET /api/models/.*/tree", "HEAD /somebody"])
@pytest.mark.parametrize("status, headers", [(429, {"Retry-After": "1"}), (500, {}), (503, {})])
def test_a_hub_that_is_overloaded_or_broken_for_a_moment_is_asked_again(hub, ask, request_, status, headers):
    hub.faults = [Fault(request_, status=status, headers=headers)]
    assert Path(ask()).name == hub.commit
    assert hub.faults[0].times == 0 or "tree" in request_  # which the client's first releases do not ask for


def test_a_hub_that_wants_a_long_pause_is_one_error_at_once(hub, ask):
    hub.faults = [Fault("GET /api/models", times=99, status=429, headers={"Retry-After": "3600"})]
    assert_refused(ask(), "429", "try again later")
    assert hub.faults[0].times == 98


def test_what_the_client_repeats_itself_is_not_repeated_again(hub, ask):
    broken = {"times": 99, "status": 503, "headers": {"Retry-After": "0"}}
    hub.faults = [Fault("GET /api/models/.*/tree", **broken), Fault("HEAD /", **broken)]
    assert_refused(ask(), f"could not fetch '{REPOSITORY}'", "503")
    assert 1 <= 198 - sum(fault.times for fault in hub.faults) <= 8  # with any release of the client


def test_a_connection_that_breaks_is_resumed_where_it_ended(hub, ask, saved):
    """The client asks for the rest from the last 10 MiB on, so the weights here are larger than that, of no network."""
    weights = bytes(range(256)) * (45 * 2**10)
    config = files.read_config(saved)
    config["files"][files.WEIGHTS] = files.describe(weights)
    hub.add("somebody/large", {files.CONFIG: files.to_json(files.sealed(config)), files.WEIGHTS: weights}
            | {name: (saved / name).read_bytes() for name in (files.METRICS, "labels.json")})  # fmt: skip
    hub.faults = [Fault("GET /stored", cut=11 * 2**20), Fault("GET /somebody/large/resolve/.*/metrics.json", cut=50)]
    assert (Path(ask("somebody/large")) / files.WEIGHTS).read_bytes() == weights
    assert hub.ranges == [f"bytes={10 * 2**20}-"]


def test_weights_that_are_cut_short_are_no_model(hub, ask, tmp_path):
    hub.faults = [Fault("GET /stored", times=99, cut=100, short=True)]
    assert_refused(ask(), "should be of size")
    assert "model.safetensors" not in cached(tmp_path)
    hub.faults.clear()
    assert Path(ask()).name == hub.commit


def test_weights_altered_on_the_way_are_fetched_again(hub, ask, saved):
    hub.faults = [Fault("GET /stored", altered=True)]
    assert ask(action="load") == zoo.load(saved).translate(["Ein Hund"])


@pytest.mark.parametrize(
    "path, name", [("/stored", files.WEIGHTS), (f"/{REPOSITORY}/resolve/.*/config.json", "config")]
)
def test_files_that_stay_altered_are_refused_and_do_not_stay_in_the_cache(hub, ask, tmp_path, path, name):
    hub.faults = [Fault(f"GET {path}", times=2, altered=True)]
    answer = ask()
    assert answer["error"] == "DamagedModelError"
    assert name in answer["message"] and f"'{REPOSITORY}'" in answer["message"]
    assert str(tmp_path) not in answer["message"]
    assert files.WEIGHTS not in cached(tmp_path)
    assert Path(ask()).name == hub.commit


def test_what_a_repository_really_holds_stays_in_the_cache(hub, ask, tmp_path):
    """The config is none of ours, or does not fit the weights, but they are what the Hub says they are."""
    other = {files.CONFIG: b'{"format_version": "of another library"}'}
    unfitting = hub.repositories[REPOSITORY].head | {files.WEIGHTS: b"other weights"}
    for contents, told in ((other, "is no config of a model"), (unfitting, "model.safetensors is truncated or")):
        commit = hub.add("somebody/other", contents)
        hub.requests.clear()
        answer = ask("somebody/other")
        assert (answer["error"], told in answer["message"]) == ("DamagedModelError", True)
        assert f"'somebody/other' on the Hugging Face Hub, at commit {commit}: " in answer["message"]
        assert str(tmp_path) not in answer["message"]
        assert contents.keys() & {files.CONFIG, files.WEIGHTS} <= cached(tmp_path)
        assert sum("/stored/" in request for request in hub.requests) <= 1  # nothing is fetched again


def test_a_file_altered_in_the_cache_is_fetched_again_or_refused_offline(hub, ask):
    folder = Path(ask())
    weights = (folder / files.WEIGHTS).resolve()
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    answer = ask(revision=hub.commit, HF_HUB_OFFLINE="1")
    assert (answer["error"], "expected SHA-256" in answer["message"]) == ("DamagedModelError", True)
    assert ask(revision=hub.commit) == str(folder)
    assert weights.read_bytes() == data


def test_a_full_disk_is_one_error_and_leaves_no_model(hub, ask, tmp_path):
    largest = str(len(hub.repositories[REPOSITORY].head[files.CONFIG]))
    assert_refused(ask(largest=largest), "too large while writing to")
    assert files.WEIGHTS not in cached(tmp_path)
    assert Path(ask()).name == hub.commit


def test_two_processes_may_fetch_at_once(hub, ask, saved):
    hub.faults = [Fault("GET /stored", times=2, seconds=0.5)]
    with ThreadPoolExecutor() as pool:
        folders = {answer.result() for answer in [pool.submit(ask), pool.submit(ask)]}
    assert len(folders) == 1
    assert zoo.load(folders.pop()).translate(["Ein Hund"]) == zoo.load(saved).translate(["Ein Hund"])


@pytest.mark.parametrize(
    "config, told",
    [
        (b'{"architectures": ["BertModel"], "transformers_version": "4.57.0"}', "is that of transformers"),
        (b'{"model": "resnet"}', "is that of another library"),
        (None, "it has no config.json"),
    ],
)
def test_of_another_librarys_repository_nothing_but_its_config_is_fetched(hub, ask, config, told):
    contents = {files.WEIGHTS: b"0" * 1000, "README.md": b"hello"} | ({files.CONFIG: config} if config else {})
    hub.add("somebody/bert", contents)
    assert_refused(ask("somebody/bert"), "'somebody/bert'", "holds no model of snn-zoo", told)
    assert not any(files.WEIGHTS in request for request in hub.requests)


def test_a_local_folder_of_the_same_name_is_pointed_out(ask, tmp_path, network):
    zoo.save(network, tmp_path / "some" / "tiny")
    code = "import os, sys; os.chdir(sys.argv[1]); import zoo; zoo.info('some/tiny', revision='main')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(CHECKOUT)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert "To load the local folder of that name, write './some/tiny'" in result.stderr
