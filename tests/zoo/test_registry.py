"""Architectures and bundled models by name."""

import json
import re

import pytest
import tiny_network
import torch
from safetensors.torch import load_file

import zoo
from neurons.spike import earlier_names
from zoo import errors, files, weights
from zoo.card import render_card
from zoo.metrics import pictures_of
from zoo.publishing import contents_to_publish
from zoo.registry import MODEL_CARDS, architecture, register_architecture
from zoo.tasks import TASKS

BUNDLED = sorted(path.parent.name for path in MODEL_CARDS.glob("*/config.json"))


# Architectures


@pytest.mark.parametrize("name", [network for task in TASKS.values() for network in task.networks])
def test_an_architecture_of_this_package_is_found_without_importing_it_first(name):
    assert architecture(name).architecture == name


def test_a_class_knows_the_name_it_was_registered_under():
    assert tiny_network.TinyNetwork.architecture == "tiny"
    assert architecture("tiny") is tiny_network.TinyNetwork


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'tiny' is taken by TinyNetwork"):
        register_architecture("tiny")(tiny_network.TinyNetwork)


def test_a_class_without_the_method_of_its_task_is_refused():
    class Mute:
        task = "translation"

        def assets(self):
            return {}

    with pytest.raises(TypeError, match=r"it has no from_config\(\) and no translate\(\) and no check\(\)"):
        register_architecture("mute")(Mute)


@pytest.mark.parametrize("given", ["translatoin", None])
def test_a_class_of_an_unknown_task_is_refused(given):
    class Lost:
        task = given

    with pytest.raises(errors.UnknownNameError, match=f"no task is called {given!r}"):
        register_architecture("lost")(Lost)


# Models


def test_models_are_listed_by_pattern_and_task(bundled):
    assert zoo.list_models() == zoo.list_models("t*") == zoo.list_models(task="translation") == ["tiny"]
    assert zoo.list_models("*imdb*") == zoo.list_models(task="text-classification") == []


def test_an_unknown_task_gets_a_suggestion(bundled):
    with pytest.raises(ValueError, match="did you mean 'translation'"):
        zoo.list_models(task="translations")


def test_a_folder_without_a_config_is_no_model(bundled):
    (bundled.parent / "drafts").mkdir()
    assert zoo.list_models() == ["tiny"]


def test_info_tells_what_is_known_of_a_model(bundled, network):
    for name in ("tiny", bundled):
        model = zoo.info(name)
        assert (model.name, model.architecture, model.task) == ("tiny", "tiny", "translation")
        assert model.parameters == sum(p.numel() for p in network.parameters())
        assert model.bytes == sum((bundled / file).stat().st_size for file in (files.WEIGHTS, "labels.json"))
        assert model.scores["bleu_test"] == 11.25
        assert model.licence == "apache-2.0"
        assert model.folder == bundled


def test_info_of_a_typo_gets_a_suggestion(bundled):
    with pytest.raises(errors.UnknownNameError, match="did you mean 'tiny'"):
        zoo.info("tny")


def test_info_of_a_model_without_metrics_is_an_error(bundled):
    (bundled / files.METRICS).unlink()
    with pytest.raises(errors.DamagedModelError, match=r"metrics.json is missing"):
        zoo.info("tiny")


# Every model that is bundled


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_is_what_its_folder_says(name):
    folder = MODEL_CARDS / name
    config, metrics = files.read_config(folder), files.read_metrics(folder)
    assert config["name"] == name
    assert (folder / files.CARD).read_text(encoding="utf-8") == render_card(config, metrics)
    written = {files.CARD, files.CONFIG, files.METRICS, *pictures_of(metrics), *config["files"]}
    assert {path.name for path in folder.iterdir()} == written
    assert metrics["load_as"] == name
    assert metrics["results"] and metrics["limits"] and metrics["commands"] and metrics["seeds"]
    assert contents_to_publish(folder, f"org/{name}").keys() == written


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_loads_and_would_be_saved_as_it_is(name, tmp_path):
    model, metrics = zoo.load(name), json.loads((MODEL_CARDS / name / files.METRICS).read_text())
    pictures = {picture: (MODEL_CARDS / name / picture).read_bytes() for picture in pictures_of(metrics)}
    again = zoo.save(model, tmp_path / name, metrics, pictures)
    for file in (files.METRICS, *pictures, *model.assets()):
        assert (again / file).read_bytes() == (MODEL_CARDS / name / file).read_bytes()
    bundled, written = (load_file(folder / files.WEIGHTS) for folder in (MODEL_CARDS / name, again))
    # Some bundled files hold tracked ranges in the form of earlier releases.
    renamed = {key: before for key, before in earlier_names(model).items() if before in bundled}
    assert bundled.keys() == {renamed.get(key, key) for key in written}
    for key, value in written.items():
        if not key.endswith(("spike_range.minimum", "spike_range.maximum")):
            assert value.dtype == bundled[renamed.get(key, key)].dtype
            assert torch.equal(value, bundled[renamed.get(key, key)])
    loaded = zoo.load(str(again))
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    assert weights.pack(loaded) == (again / files.WEIGHTS).read_bytes()


def test_the_bundled_weights_are_small():
    sizes = [path.stat().st_size for path in MODEL_CARDS.glob("*/*.safetensors")]
    assert all(size < 16 * 2**20 for size in sizes)
    assert sum(sizes) < 32 * 2**20


def test_what_is_published_is_pinned_to_a_commit_that_never_changes():
    for name, pin in zoo.registry.PUBLISHED.items():
        assert name in BUNDLED
        assert re.fullmatch("[0-9a-f]{40}", pin.commit)
        assert zoo.registry.is_repository(pin.repo)


def test_a_bundled_model_that_is_not_on_the_hub_is_said_to_be_in_the_package(bundled):
    with pytest.raises(ValueError, match="'tiny' is not on the Hugging Face Hub yet"):
        zoo.load("tiny", source="hub")
    with pytest.raises(errors.UnknownNameError, match="did you mean 'tiny'"):
        zoo.load("tinny", source="hub")
    with pytest.raises(ValueError, match="is a folder"):
        zoo.load(bundled, source="hub")
    with pytest.raises(errors.UnknownNameError, match="did you mean 'hub'"):
        zoo.load("tiny", source="hubb")


def test_a_pipeline_is_the_bundled_model_of_a_task_with_the_best_score(bundled, network, metrics):
    metrics["results"][0] |= {"name": "other", "bleu_test": 30.0, "bleu_val": 1.0}
    network.readout.bias.data += 1
    zoo.save(network, bundled.parent / "other", metrics)
    zoo.save(network, bundled.parent / "unmeasured")
    assert zoo.registry.best("translation") == "other"
    assert torch.equal(zoo.pipeline("translation").readout.bias, zoo.load("other").readout.bias)
    with pytest.raises(ValueError, match="for text-classification; there are models for translation"):
        zoo.pipeline("text-classification")
    with pytest.raises(errors.UnknownNameError, match="did you mean 'translation'"):
        zoo.pipeline("translations")


@pytest.mark.parametrize("given", ["Ein Hund", ["Ein Hund"], ("Ein Hund", "Schnee")])
def test_a_model_called_on_text_names_the_method_of_its_task(network, given):
    with pytest.raises(TypeError, match=r"write model\.translate\(\[sentence\]\)"):
        network(given)


def test_an_architecture_that_is_defined_again_takes_the_place_of_the_one_before(monkeypatch):
    monkeypatch.setattr("zoo.registry._architectures", {})

    def define(module: str) -> type:
        methods = {method: lambda self: None for method in ("from_config", "assets", "translate", "check")}
        network = type("Mine", (), {"task": "translation", "__module__": module, **methods})
        return register_architecture("mine")(network)

    first, again = define("__main__"), define("__main__")
    assert architecture("mine") is again is not first
    with pytest.raises(ValueError, match="the architecture name 'mine' is taken by Mine"):
        define("another")
