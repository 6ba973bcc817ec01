"""Publishing to the Hub with its own client, on a server on this machine that checks and keeps all that is sent."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hub_server
import pytest
import yaml
from command_line import assert_told_in_one_line, finish, start
from hub_server import Fault
from huggingface_hub import ModelCard

import zoo
from zoo import files, saving

CHECKOUT = Path(zoo.__file__).parent.parent
CLIENT = """
import dataclasses, json, os, sys
sys.path.insert(0, "tests")
import tiny_network, zoo
for line in sys.stdin:
    action, token, given, options = json.loads(line)
    os.environ["HF_TOKEN"] = token
    try:
        if action == "pin":
            zoo.registry.PUBLISHED[given] = zoo.registry.Pin(**options)
            answer = given
        elif action == "load":
            answer = zoo.load(given, **options).translate(["Ein Hund"])
        else:
            made = zoo.publish(tiny_network.trained() if given is None else given, **options)
            answer = dataclasses.asdict(made) | {"told": str(made)}
    except (OSError, ValueError) as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""


def settings(url: str, home: Path) -> dict[str, str]:
    """The environment of a process whose Hub is at ``url`` and whose cache is in ``home``."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }


class Client:
    """A process whose Hub is the server."""

    def __init__(self, url: str, home: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            cwd=CHECKOUT,
            env=os.environ | settings(url, home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, action: str, given, token: str = "hf_owner", **options):
        print(json.dumps([action, token, None if given is None else str(given), options]), file=self.process.stdin)
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def publish(self, given, repo: str, **options):
        return self.ask("publish", given, repo=repo, **options)

    def pin(self, name: str, repo: str, commit: str):
        return self.ask("pin", name, repo=repo, commit=commit)

    def load(self, name: str, **options):
        return self.ask("load", name, **options)


@pytest.fixture(scope="module")
def server():
    with hub_server.running() as server:
        yield server


@pytest.fixture
def hub(server):
    """The server, empty."""
    server.repositories.clear()
    server.stored.clear()
    server.faults.clear()
    server.requests.clear()
    return server


@pytest.fixture(scope="module")
def clients(server, tmp_path_factory):
    made = [Client(server.url, tmp_path_factory.mktemp("hub")) for _ in range(2)]
    yield made
    for client in made:
        client.process.communicate("")


@pytest.fixture
def client(clients):
    return clients[0]


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_attributes(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in contents.items() if name != ".gitattributes"}


def assert_refused(answer, kind, *parts):
    assert answer.get("error") == kind, answer
    assert "\n" not in answer["message"]
    for part in parts:
        assert part in answer["message"]


def assert_nothing_was_sent(hub):
    assert not [request for request in hub.requests if request.startswith(("POST", "PUT"))]


def test_a_folder_is_published_as_it_is_in_one_commit_that_loads_again(hub, client, saved):
    made = client.publish(saved, "somebody/tiny")
    repository = hub.repositories["somebody/tiny"]
    assert without_attributes(repository.head) == contents_of(saved)
    assert len(repository.commits) == 2  # with the one that the Hub makes
    assert made["commit"] == repository.refs["main"]
    assert f'zoo.load("somebody/tiny", revision="{made["commit"]}")' in made["told"]
    expected = zoo.load(saved).translate(["Ein Hund"])
    assert client.load("somebody/tiny", revision=made["commit"]) == expected
    assert not repository.private


def test_the_card_on_the_hub_has_library_tags_licence_and_results(hub, client, saved):
    client.publish(saved, "somebody/tiny")
    data = ModelCard(hub.repositories["somebody/tiny"].head[files.CARD].decode()).data
    expected = {"library_name": "snn-zoo", "license": "apache-2.0", "pipeline_tag": "translation"}
    assert expected.items() <= data.to_dict().items()
    assert {(result.dataset_split, result.metric_value) for result in data.eval_results} == {
        ("val", 12.5),
        ("test_2016_flickr", 11.25),
    }


def test_scores_on_benchmarks_are_published_where_the_hub_reads_them(hub, client, saved, network, metrics):
    metrics["benchmarks"] = [{"score": "bleu_test", "dataset": "somebody/five-words", "task": "test"}]
    zoo.save(network, saved, metrics)
    made = client.publish(saved, "somebody/tiny")
    head = hub.repositories["somebody/tiny"].head
    entry = {"dataset": {"id": "somebody/five-words", "task_id": "test"}, "value": 11.25, "notes": "case:mixed"}
    assert yaml.safe_load(head[".eval_results/tiny.yaml"]) == [entry]
    assert client.load("somebody/tiny", revision=made["commit"]) == zoo.load(saved).translate(["Ein Hund"])
    (saved / ".eval_results" / "tiny.yaml").write_bytes(b"[]")
    assert_refused(client.publish(saved, "somebody/tiny"), "ValueError", ".eval_results/tiny.yaml is not the one")
    saving.rewrite_config(saved)
    assert not client.publish(saved, "somebody/tiny", dry_run=True)["changes"]
    zoo.save(network, saved, metrics | {"benchmarks": []})
    plan = client.publish(saved, "somebody/tiny", dry_run=True)
    assert "removes .eval_results/tiny.yaml" in plan["changes"]


def test_a_model_is_saved_and_published_under_its_new_name(hub, client, metrics):
    client.publish(None, "somebody/tiny", metrics=metrics, private=True)
    repository = hub.repositories["somebody/tiny"]
    assert repository.private
    assert 'zoo.load("somebody/tiny")' in repository.head[files.CARD].decode()
    assert len(client.load("somebody/tiny")) == 1


def test_a_card_that_names_a_local_folder_names_the_repository_once_it_is_published(
    hub, client, saved, network, metrics
):
    metrics.pop("load_as")
    local = contents_of(zoo.save(network, saved, metrics))
    made = client.publish(saved, "somebody/other")
    head = hub.repositories["somebody/other"].head
    assert 'zoo.load("./tiny")' in local[files.CARD].decode()
    assert 'zoo.load("somebody/other")' in head[files.CARD].decode() and b"./tiny" not in head[files.CARD]
    assert json.loads(head[files.METRICS]) == json.loads(local[files.METRICS]) | {"load_as": "somebody/other"}
    assert contents_of(saved) == local
    assert not client.publish(saved, "somebody/other")["changes"]
    assert client.load("somebody/other", revision=made["commit"]) == zoo.load(saved).translate(["Ein Hund"])


def test_a_dry_run_says_what_would_change_and_sends_nothing(hub, client, saved):
    plan = client.publish(saved, "somebody/tiny", dry_run=True)
    assert [change.split()[:2] for change in plan["changes"]] == [
        ["adds", name] for name in ("README.md", "config.json", "labels.json", "metrics.json", "model.safetensors")
    ]
    assert (plan["commit"], plan["parent_commit"]) == (None, None)
    assert_nothing_was_sent(hub)
    assert hub.repositories == {}


def test_what_is_there_is_replaced_only_at_the_commit_that_is_named(hub, client, saved, network, metrics):
    first = client.publish(saved, "somebody/tiny")["commit"]
    hub.repositories["somebody/tiny"].commit(hub.repositories["somebody/tiny"].head | {"old.png": b"a picture"})
    zoo.save(network, saved, metrics | {"summary": "Another one."})
    assert_refused(client.publish(saved, "somebody/tiny"), "HubError", "changes README.md", "parent_commit=")
    plan = client.publish(saved, "somebody/tiny", dry_run=True)
    assert [change.split("(")[0].strip() for change in plan["changes"]] == [
        "changes README.md",
        "changes metrics.json",
        "removes old.png",
    ]
    assert_refused(
        client.publish(saved, "somebody/tiny", parent_commit=first), "HubError", first, plan["parent_commit"]
    )
    assert "old.png" in hub.repositories["somebody/tiny"].head
    client.publish(saved, "somebody/tiny", parent_commit=plan["parent_commit"])
    assert without_attributes(hub.repositories["somebody/tiny"].head) == contents_of(saved)


def test_the_same_model_again_makes_no_commit(hub, client, saved):
    first = client.publish(saved, "somebody/tiny")
    hub.requests.clear()
    again = client.publish(saved, "somebody/tiny")
    assert (again["commit"], again["changes"]) == (first["commit"], [])
    assert_nothing_was_sent(hub)


def test_a_pull_request_leaves_the_main_branch(hub, client, saved, network, metrics):
    first = client.publish(saved, "somebody/tiny")["commit"]
    zoo.save(network, saved, metrics | {"summary": "Another one."})
    made = client.publish(saved, "somebody/tiny", create_pr=True)
    repository = hub.repositories["somebody/tiny"]
    assert repository.refs == {"main": first, "refs/pr/1": made["commit"]}
    assert made["pull_request"].endswith("/somebody/tiny/discussions/1")
    assert made["pull_request"] in made["told"]
    assert without_attributes(repository.commits[made["commit"]]) == contents_of(saved)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_pull_request_creates_no_repository(hub, client, saved, dry_run):
    answer = client.publish(saved, "somebody/tiny", create_pr=True, dry_run=dry_run)
    assert_refused(answer, "HubError", "'somebody/tiny'", "no such repository")
    assert_nothing_was_sent(hub)
    assert hub.repositories == {}


def test_a_pull_request_whose_answer_is_lost_is_not_made_twice(hub, client, saved):
    hub.add("somebody/tiny", {".gitattributes": hub_server.ATTRIBUTES})
    hub.faults = [Fault("POST .*/commit", cut=5)]
    assert_refused(client.publish(saved, "somebody/tiny", create_pr=True), "HubError", "could not publish")
    assert set(hub.repositories["somebody/tiny"].refs) == {"main", "refs/pr/1"}


def altered_weights(folder, metrics):
    data = (folder / files.WEIGHTS).read_bytes()
    (folder / files.WEIGHTS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def metrics_of_other_weights(folder, metrics):
    saving.rewrite_config(folder, metrics | {"weights_sha256": "0" * 64})


def metrics_of_unknown_weights(folder, metrics):
    saving.rewrite_config(folder, metrics)


def stale_card(folder, metrics):
    text = files.to_json(files.read_metrics(folder) | {"summary": "Better than it was."})
    (folder / files.METRICS).write_bytes(text)


def no_data(folder, metrics):
    saving.rewrite_config(folder, {"licence": "apache-2.0"})


def no_licence(folder, metrics):
    saving.rewrite_config(folder, {"data": metrics["data"]})


def another_file(folder, metrics):
    (folder / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    "change, told",
    [
        (altered_weights, "is altered: expected SHA-256"),
        (metrics_of_other_weights, "its results are of other weights (SHA-256 0000"),
        (metrics_of_unknown_weights, "its results are of other weights (SHA-256 unknown)"),
        (stale_card, "its README.md is not the one of its config and metrics"),
        (no_data, "says nothing of its data and licence"),
        (no_licence, "says nothing of its data and licence"),
        (another_file, "it holds other files too: notes.txt"),
    ],
)
def test_a_folder_that_must_not_be_published_is_refused_before_anything_is_sent(
    hub, client, saved, metrics, change, told
):
    change(saved, metrics)
    answer = client.publish(saved, "somebody/tiny")
    assert answer["error"] in ("ValueError", "DamagedModelError")
    assert told in answer["message"]
    assert hub.requests == []


def test_a_model_without_metrics_is_refused(hub, client):
    assert_refused(client.publish(None, "somebody/tiny"), "ValueError", "says nothing of its data and licence")
    assert hub.requests == []


def test_a_name_that_is_no_repositorys_is_refused(hub, client, saved):
    for name in ("tiny", "./tiny", "a/b/c"):
        assert_refused(client.publish(saved, name), "ValueError", '"org/name"', name)


@pytest.mark.parametrize(
    "contents, told",
    [
        ({"config.json": b'{"transformers_version": "5.0"}', "pytorch_model.bin": b"0"}, "that of transformers"),
        ({"README.md": b"---\nlibrary_name: timm\n---\n"}, "a repository of timm"),
        ({"weights.bin": b"0"}, "it has no config.json"),
    ],
)
def test_another_librarys_repository_is_left_alone(hub, client, saved, contents, told):
    head = hub.add("somebody/other", contents)
    assert_refused(client.publish(saved, "somebody/other", parent_commit=head), "HubError", told)
    assert_nothing_was_sent(hub)


def test_a_public_repository_takes_no_private_model(hub, client, saved):
    client.publish(saved, "somebody/tiny")
    assert_refused(client.publish(saved, "somebody/tiny", private=True), "HubError", "it is public")


@pytest.mark.parametrize("token, told", [("hf_reader", "403"), ("hf_typo", "401")])
def test_a_token_without_rights_is_told_what_is_missing(hub, client, saved, token, told):
    hub.add("somebody/there", {".gitattributes": hub_server.ATTRIBUTES})
    for name in ("somebody/tiny", "somebody/there"):
        assert_refused(client.publish(saved, name, token=token), "HubError", name, told, "HF_TOKEN")
    assert set(hub.repositories) == {"somebody/there"}
    assert (hub.stored, len(hub.repositories["somebody/there"].commits)) == ({}, 1)


@pytest.mark.parametrize("dry_run", [False, True])
def test_without_a_token_nothing_is_asked(hub, client, saved, dry_run):
    answer = client.publish(saved, "somebody/tiny", token="", dry_run=dry_run)
    assert_refused(answer, "HubError", "there is no token", "hf auth login", "HF_TOKEN")
    assert hub.requests == []


@pytest.mark.parametrize(
    "request_",
    [
        "GET /api/models",
        "POST /api/repos/create",
        "POST /api/validate-yaml",
        "POST /api/models/.*/preupload",
        "POST .*/batch",
        "PUT /upload",
        "POST /verify",
        "POST /api/models/.*/commit",
    ],
)
def test_a_hub_that_fails_for_a_moment_gets_the_whole_model_all_the_same(hub, client, saved, request_):
    hub.faults = [Fault(request_, status=500), Fault(request_, status=429, headers={"Retry-After": "0"})]
    made = client.publish(saved, "somebody/tiny")
    assert hub.faults[0].times == 0
    repository = hub.repositories["somebody/tiny"]
    assert made["commit"] == repository.refs["main"]
    assert without_attributes(repository.head) == contents_of(saved)


def test_an_upload_that_the_client_repeats_itself_is_not_repeated_again(hub, client, saved):
    hub.faults = [Fault("PUT /upload", times=99, status=503, headers={"Retry-After": "0"})]
    assert_refused(client.publish(saved, "somebody/tiny"), "HubError", "could not publish", "503")
    assert 1 < 99 - hub.faults[0].times <= 6


@pytest.mark.parametrize("request_", ["GET /api/models", "POST /api/repos", "PUT /upload", "POST .*/commit"])
def test_a_request_whose_connection_is_cut_is_repeated(hub, client, saved, request_):
    hub.faults = [Fault(request_, unanswered=True)]
    client.publish(saved, "somebody/tiny")
    assert without_attributes(hub.repositories["somebody/tiny"].head) == contents_of(saved)
    assert hub.faults[0].times == 0


def test_a_commit_whose_answer_is_lost_was_made_once(hub, client, saved):
    hub.faults = [Fault("POST /api/models/.*/commit", cut=5)]
    made = client.publish(saved, "somebody/tiny")
    repository = hub.repositories["somebody/tiny"]
    assert (made["commit"], len(repository.commits)) == (repository.refs["main"], 2)


@pytest.mark.parametrize("create_pr", [False, True])
def test_a_commit_that_does_not_hold_what_was_sent_is_told(hub, client, saved, create_pr):
    hub.add("somebody/tiny", {".gitattributes": hub_server.ATTRIBUTES})
    hub.faults = [Fault("POST .*/commit", loses="labels.json")]
    answer = client.publish(saved, "somebody/tiny", create_pr=create_pr)
    made = list(hub.repositories["somebody/tiny"].commits)[-1]
    assert_refused(answer, "HubError", "'somebody/tiny'", f"new commit {made}", "adds labels.json")


def test_a_commit_that_cannot_be_checked_is_named(hub, client, saved):
    hub.faults = [Fault("GET /api/models/somebody/tiny/revision", times=99, status=403)]
    answer = client.publish(saved, "somebody/tiny")
    head = hub.repositories["somebody/tiny"].refs["main"]
    assert_refused(answer, "HubError", f"new commit {head}", "could not be checked", "403")
    hub.faults.clear()
    assert client.publish(saved, "somebody/tiny")["commit"] == head


@pytest.mark.parametrize("request_", ["PUT /upload", "POST /verify", "POST /api/models/.*/commit"])
def test_an_upload_that_fails_is_no_commit(hub, client, saved, request_):
    hub.faults = [Fault(request_, times=9, status=400)]
    assert_refused(client.publish(saved, "somebody/tiny"), "HubError", "could not publish", "400")
    assert len(hub.repositories["somebody/tiny"].commits) == 1
    hub.faults.clear()
    client.publish(saved, "somebody/tiny")
    assert without_attributes(hub.repositories["somebody/tiny"].head) == contents_of(saved)


def test_of_two_who_publish_at_once_one_succeeds_and_the_other_is_told(hub, clients, saved, network, metrics):
    other = zoo.save(network, saved.parents[1] / "others" / "tiny", metrics | {"summary": "Another one."})
    hub.add("somebody/tiny", {".gitattributes": hub_server.ATTRIBUTES})
    hub.faults = [Fault("POST /api/models/.*/commit", times=2, together=threading.Barrier(2, timeout=120))]
    with ThreadPoolExecutor() as pool:
        publish = [
            pool.submit(client.publish, folder, "somebody/tiny") for client, folder in zip(clients, (saved, other))
        ]
    answers = [answer.result() for answer in publish]
    lost = [answer for answer in answers if "error" in answer]
    assert len(lost) == 1
    assert_refused(lost[0], "HubError", "412", "somebody else has changed it")
    winner = saved if "error" in answers[1] else other
    assert without_attributes(hub.repositories["somebody/tiny"].head) == contents_of(winner)


# The command


@pytest.fixture
def publish(hub, saved, tmp_path):
    """Run ``snn-zoo publish`` with these arguments, and ``given`` as answers, where the saved model is bundled."""

    def publish(*arguments, given: bytes = b"", token: str = "hf_owner"):
        environment = settings(hub.url, tmp_path / "home") | {"HF_TOKEN": token}
        process = start("publish", *arguments, cards=saved.parent, environment=environment)
        return finish(process, given)

    return publish


def test_the_command_shows_what_would_change_asks_and_prints_the_commit(hub, publish, saved):
    status, written, told = publish(saved, "somebody/tiny", given=b"n\n")
    assert (status, written) == (1, b"")
    assert "adds model.safetensors" in told
    assert_nothing_was_sent(hub)
    status, written, told = publish(saved, "somebody/tiny", given=b"y\n")
    head = hub.repositories["somebody/tiny"].refs["main"]
    assert (status, written.decode()) == (0, head + "\n")
    assert f'zoo.load("somebody/tiny", revision="{head}")' in told


def test_without_a_question_nothing_is_replaced_but_at_the_commit_that_is_named(hub, publish, saved, network, metrics):
    head = hub.add("somebody/tiny", contents_of(saved))
    zoo.save(network, saved, metrics | {"summary": "Another one."})
    status, written, told = publish(saved, "somebody/tiny", "--yes")
    assert (status, written) == (1, b"")
    assert "changes README.md" in told and f"parent_commit={head!r}" in told
    assert hub.repositories["somebody/tiny"].refs["main"] == head
    assert publish(saved, "somebody/tiny", "--yes", "--parent-commit", head)[0] == 0
    assert without_attributes(hub.repositories["somebody/tiny"].head) == contents_of(saved)


def test_all_bundled_models_are_published_by_one_command_that_prints_what_the_registry_pins(
    hub, publish, client, saved, network, metrics
):
    metrics["results"][0]["name"] = "other"
    zoo.save(network, saved.parent / "other", metrics)
    status, written, _ = publish("--all", "somebody", "--yes")
    assert status == 0
    pins = eval(f"{{{written.decode()}}}", {"Pin": zoo.registry.Pin})  # as it is pasted into the registry
    assert pins == {
        name: (f"somebody/{name}", hub.repositories[f"somebody/{name}"].refs["main"]) for name in ("tiny", "other")
    }
    client.pin("tiny", *pins["tiny"])
    hub.repositories["somebody/tiny"].commit({})  # the pin does not follow the branch
    assert client.load("tiny", source="hub") == zoo.load(saved).translate(["Ein Hund"])
    hub.requests.clear()
    assert client.load("tiny", source="hub") == zoo.load(saved).translate(["Ein Hund"])
    assert hub.requests == []


def test_of_all_bundled_models_none_is_sent_if_one_would_replace_what_is_there(hub, publish, saved, network, metrics):
    earlier = hub.add("somebody/tiny", contents_of(saved))
    zoo.save(network, saved, metrics | {"summary": "Another one."})
    metrics["results"][0]["name"] = "other"  # which comes first
    zoo.save(network, saved.parent / "other", metrics)
    status, written, told = publish("--all", "somebody", "--yes")
    assert (status, written) == (1, b"")
    assert "'somebody/tiny'" in told and "changes README.md" in told
    assert_nothing_was_sent(hub)
    assert hub.repositories.keys() == {"somebody/tiny"}
    assert hub.repositories["somebody/tiny"].refs["main"] == earlier
    assert publish("--all", "somebody", given=b"y\n")[0] == 0  # shown and agreed to


def test_the_command_wants_a_model_and_a_repository_or_all(publish, saved):
    for arguments in ([], [saved], [saved, "somebody/tiny", "--all", "somebody"]):
        status, written, told = publish(*arguments)
        assert (status, written) == (1, b"")
        assert_told_in_one_line(told, "--all ORG")
