"""Other labels for a loaded model, and parts of it that are not trained."""

import warnings

import numpy as np
import pytest
import torch
from tiny_translator import translator

import zoo
from zoo.errors import UnknownNameError
from zoo.networks.gesture import GestureConfig, GestureNetwork
from zoo.networks.speech import SpeechConfig, SpeechRecogniser
from zoo.tasks import TASKS

FILM = ["I loved it, a wonderful film."]


def with_labels(name, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zoo.load(name, labels=labels)


def networks() -> dict[str, torch.nn.Module]:
    gestures = GestureConfig(["a", "b"], height=16, width=16, pool=2, channels=2, blocks=2, head=4)
    return {
        "translator": translator(),
        "gesture-network": GestureNetwork(gestures),
        "speech-recogniser": SpeechRecogniser(SpeechConfig(["a", "b"], bands=8, width=6, layers=2)),
        "text-classifier": zoo.load("lite-snn-imdb"),
    }


def test_a_new_label_begins_at_zero_and_the_others_keep_what_was_learned():
    old = zoo.load("lite-snn-imdb")
    with pytest.warns(UserWarning, match=r"new labels: 'neutral'\. Their rows of .*body\.output\.weight.* are zero"):
        model = zoo.load("lite-snn-imdb", labels=["positive", "neutral", "negative"])
    assert model.newly_initialised == ["evidence_current.weight", "body.output.weight", "body.output.bias"]
    logits, before = (m.logits(m.encode(FILM))[0].tolist() for m in (model, old))
    assert logits == pytest.approx([before[1], 0, before[0]])
    assert (model.typed_config.temperature, model.training) == (1, False)
    assert torch.equal(model.embedding.weight, old.embedding.weight) and old.newly_initialised == []


def test_the_same_labels_in_another_order_change_no_probability_and_nothing_is_new():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = zoo.load("lite-snn-imdb", labels=["positive", "negative"])
    assert model.newly_initialised == []
    (found,), (old,) = (m.classify(FILM) for m in (model, zoo.load("lite-snn-imdb")))
    assert list(found.probabilities) == ["positive", "negative"]
    assert found.probabilities == pytest.approx(old.probabilities)


def test_a_model_with_new_labels_runs_in_integers_and_is_saved_and_loaded(tmp_path):
    model = with_labels("lite-snn-dvs-gesture", ["arm roll", "nod"])
    x, y, p = np.random.default_rng(0).integers(0, [[128], [128], [2]], (3, 2000))
    events = {"t": np.arange(2000) * 100, "x": x, "y": y, "p": p}
    zoo.save(model, tmp_path / "nods")
    assert zoo.load(tmp_path / "nods").predict(events) == model.predict(events)
    assert model.last_precision == "int8"


def test_the_blank_of_a_recogniser_stays_where_it_is(tmp_path):
    torch.manual_seed(0)
    zoo.save(SpeechRecogniser(SpeechConfig(["a", "b"], bands=8, width=6, layers=2)), tmp_path / "speech")
    old, model = zoo.load(tmp_path / "speech"), with_labels(tmp_path / "speech", ["c", "b"])
    assert torch.equal(model.output.weight[[0, 2]], old.output.weight[[0, 2]])
    assert not model.output.weight[1].any() and not model.output.bias[1]


@pytest.mark.parametrize(
    ("name", "labels", "error", "message"),
    [
        ("lite-snn-imdb", ["a"], ValueError, r"labels must be at least two, and different; got \['a'\]"),
        ("lite-snn-imdb", ["a", "a"], ValueError, "at least two, and different"),
        ("lite-snn-imdb", ["a", " "], ValueError, "a label must not be empty"),
        ("lite-snn-imdb", "ab", TypeError, "labels must be a list of texts; got 'ab'"),
        ("lite-snn-imdb", ["a", 1], TypeError, "labels must be a list of texts"),
        ("lite-snn-dvs-gesture", ["a"], ValueError, "labels must be at least two different names"),
        ("lite-snn-multi30k", ["a", "b"], ValueError, "a model for translation has no labels"),
    ],
)
def test_labels_that_a_model_cannot_have_are_refused(name, labels, error, message):
    with pytest.raises(error, match=message):
        zoo.load(name, labels=labels)


# Freezing


@pytest.mark.parametrize("name", [name for task in TASKS.values() for name in task.networks])
def test_each_parameter_is_in_one_declared_part(name):
    model = networks()[name]
    model.requires_grad_(True)
    found = [name for part in type(model).parts for name in _frozen(model, part)]
    assert sorted(found) == sorted(name for name, _ in model.named_parameters())


def _frozen(model, part):
    frozen = zoo.freeze(model, part)
    model.requires_grad_(True)
    return frozen


def test_a_frozen_part_does_not_change_in_training_and_the_rest_does():
    torch.manual_seed(0)
    model = GestureNetwork(GestureConfig(["a", "b"], height=16, width=16, pool=2, channels=2, blocks=2, head=4)).train()
    zoo.freeze(model, "blocks")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        model(torch.randint(0, 9, (3, 4, 2, 8, 8))).square().sum().backward()
        optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith("blocks.")]  # its norms follow no data either
    assert {"output.weight", "head.currents.1.running_mean"} <= changed


def test_all_but_the_neurons_leaks_and_ranges():
    model = translator()
    frozen = zoo.freeze(model, all_but="neurons")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(name.endswith("neuron.leak") for name in trained)
    assert sorted(frozen + trained) == sorted(name for name, _ in model.named_parameters())
    assert len(zoo.freeze(translator(), all_but=["neurons", "decoder"])) < len(frozen)


def test_a_part_that_does_not_exist_is_one_error_with_a_suggestion_and_nothing_is_frozen():
    model = translator()
    with pytest.raises(UnknownNameError, match="no part of this network is called 'encodr'; did you mean 'encoder'"):
        zoo.freeze(model, "decoder", "encodr")
    with pytest.raises(ValueError, match="nothing is left to train with embedding and encoder and decoder frozen"):
        zoo.freeze(model, "embedding", "encoder", "decoder")
    for parts, kept in (((), ()), (("encoder",), "neurons")):
        with pytest.raises(ValueError, match="name the parts to freeze, or all_but those to train; there are: embed"):
            zoo.freeze(model, *parts, all_but=kept)
    assert all(p.requires_grad for p in model.parameters())
