"""A small translator with random weights, and sentences for it."""

import torch

from recipes.multi30k import train_tokenizer
from zoo.networks.translation import END, Translator, TranslatorConfig, pad

PAIRS = [
    ("Ein Hund rennt durch den Schnee.", "A dog runs through the snow."),
    ("Zwei Männer spielen Fußball im Park.", "Two men play soccer in the park."),
    ("Eine Frau liest ein Buch.", "A woman reads a book."),
    ("Kinder springen ins kalte Wasser!", "Children jump into the cold water!"),
    ("Der Mann mit dem grünen Hut fährt Fahrrad.", "The man with the green hat rides a bike."),
]


def translator(mixer: str = "input-gated-lif", **options) -> Translator:
    """A small network with random weights, in evaluation mode."""
    torch.manual_seed(1)
    tokenizer = train_tokenizer(PAIRS, 120)
    fields = {"width": 32, "encoder_layers": 2, "decoder_layers": 2, "mixer": mixer, "initial_range": 1.0}
    config = TranslatorConfig(vocabulary=tokenizer.get_vocab_size(), **(fields | options))
    return Translator(config, tokenizer).eval()


def token_batch(model: Translator, side: int) -> torch.Tensor:
    return pad([[*model.tokenizer.encode(pair[side]).ids, END] for pair in PAIRS])
