"""Spikes of 0 and 1 are integers as any others: twins that fire them run in integers."""

import pytest
import torch

from recipes.multi30k import train_tokenizer
from zoo.engine.integers import round_to_integers
from zoo.networks.translation import Translator, TranslatorConfig

PAIRS = [
    ("Ein Hund rennt durch den Schnee.", "A dog runs through the snow."),
    ("Zwei Männer spielen Fußball im Park.", "Two men play soccer in the park."),
    ("Kinder springen ins kalte Wasser!", "Children jump into the cold water!"),
]
GERMAN = [german for german, _ in PAIRS]


def translator(**options) -> Translator:
    """With random weights, rounded to the integers that the engine computes with."""
    torch.manual_seed(1)
    tokenizer = train_tokenizer(PAIRS, 100)
    config = TranslatorConfig(tokenizer.get_vocab_size(), 32, 2, 2, initial_range=1.0, **options)
    model = Translator(config, tokenizer).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                round_to_integers(weight)
    return model


@pytest.mark.parametrize("options", [{"mixer": "learnable-lif"}, {"bits": 1}], ids=["learnable LIF", "one bit"])
def test_a_translator_of_binary_spikes_runs_in_integers_and_translates_as_in_floats(options):
    model = translator(**options)
    found = model.translate_scored(GERMAN)
    assert model.last_precision == "int8"
    assert [model.translate_scored([sentence])[0] for sentence in GERMAN] == found
    model.precision = "float32"
    expected = model.translate_scored(GERMAN)
    assert model.last_precision == "float32"
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)


@pytest.mark.parametrize("options", [{"mixer": "learnable-lif"}, {"bits": 1}], ids=["learnable LIF", "one bit"])
def test_the_spikes_of_a_binary_layer_are_0_and_1(options):
    model = translator(**options)
    source = torch.tensor([[5, 6], [7, 8], [9, 0]])
    encoder = model.programs().encoder
    result = encoder.run(source.numpy(), torch.tensor([3, 2]).numpy())
    width = encoder.widths["levels"]
    levels = result.arrays["levels"][: width * source.numel()]
    assert set(levels.tolist()) == {0, 1}
