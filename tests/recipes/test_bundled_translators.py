"""Bundled translators reach the scores of their cards, on real validation sentences."""

import pytest
import torch

import zoo
from recipes import multi30k

GERMAN = [
    "Ein Hund rennt durch den Schnee.",
    "Zwei Männer spielen Fußball im Park.",
    "Eine Frau in einem roten Kleid steht vor einem Haus.",
    "Kinder springen ins Wasser.",
    "Ein Junge mit einer Mütze fährt auf einem Skateboard eine Rampe hinunter.",
    "Der Koch!",
]


@pytest.fixture(scope="module", params=zoo.list_models(task="translation"))
def name(request) -> str:
    return request.param


def test_the_card_s_score_band_holds_on_a_hundred_validation_sentences(name, data_folder):
    band = zoo.info(name).metrics["score_band"]
    pairs = multi30k.read_split(data_folder / "multi30k", band["split"])[: band["inputs"]]
    _, scores = multi30k.evaluate(zoo.load(name), pairs)
    assert band["inputs"] == 100
    assert band["low"] <= scores["bleu"] <= band["high"]


def test_the_card_s_example_is_what_the_model_says(name):
    example = zoo.info(name).metrics["example"]
    assert zoo.load(name).translate(example["input"]) == example["output"]


@pytest.mark.parametrize("beam_size", [1, 5])
def test_a_bundled_model_s_translation_does_not_depend_on_the_batch(name, beam_size):
    model = zoo.load(name)
    together = model.translate(GERMAN, beam_size=beam_size)
    assert together == [model.translate([text], beam_size=beam_size)[0] for text in GERMAN]


@torch.inference_mode()
def test_a_sentence_s_scores_are_the_same_bits_alone_and_in_a_batch(name, data_folder):
    model = zoo.load(name)
    pairs = multi30k.read_split(data_folder / "multi30k", "val")[:20]
    examples, cpu = multi30k.encode(model.tokenizer, pairs), torch.device("cpu")
    source, target, _ = multi30k.tensors(examples, cpu)
    together = model.logits(model.scan(target, None, model.encode(source))[0])
    for i, example in enumerate(examples):
        source, target, _ = multi30k.tensors([example], cpu)
        memory, state = model.encode(source), None
        for step, token in enumerate(target):
            spikes, state = model.scan(token.unsqueeze(0), state, memory)
            assert torch.equal(model.logits(spikes)[0, 0], together[step, i])


def test_a_bundled_model_stays_within_its_limits_of_size_and_bits(name):
    info = zoo.info(name)
    assert info.parameters < 8_000_000
    assert info.config["architecture_config"]["bits"] <= 4
