"""A network small enough to save and load in a moment, with the parts of a real one: a neuron with a tracked range, a
single number, tied weights and a file beside the weights."""

import json
from typing import NamedTuple

import torch
from torch import nn

import neurons
import zoo

WORDS = ["a", "dog", "runs", "through", "snow"]
METRICS = {
    "summary": "Says one word of five.",
    "load_as": "tiny",
    "example": {"input": ["Ein Hund"], "output": ["dog"]},
    "languages": ["de", "en"],
    "licence": "apache-2.0",
    "scores": {
        "bleu_val": {"title": "BLEU, val", "type": "bleu", "split": "val", "signature": "nrefs:1|case:lc"},
        "bleu_test": {"title": "BLEU, test", "type": "bleu", "split": "test_2016_flickr", "signature": "case:mixed"},
    },
    "results": [
        {"name": "tiny", "bleu_val": 12.5, "bleu_test": 11.25, "parameters": 1234567, "mean_spike_rate": 0.31},
        {"name": "LSTM twin", "bleu_val": 12.0, "bleu_test": 11.0, "parameters": 2345678, "mean_spike_rate": None},
    ],
    "published": [{"name": "Transformer", "bleu_test": 36.5, "source": "somebody, 2020"}],
    "sparsity": [
        {"name": "tiny", "bleu_val": 12.5, "mean_spike_rate": 0.31, "estimated_energy_nJ": 2.5},
        {"name": "penalty 0.1", "bleu_val": 10.5, "mean_spike_rate": 0.1, "estimated_energy_nJ": 1.0},
    ],
    "score_band": {"score": "bleu_val", "split": "val", "inputs": 100, "low": 10, "high": 15},
    "commands": ["python -m recipes.tiny train --seed 3"],
    "seeds": [3],
    "checkpoint_split": "val",
    "data": {
        "name": "Five Words",
        "type": "five-words",
        "url": "https://example.org/words",
        "licence": "CC0",
        "use": "All of it.",
    },
    "limits": ["It knows five words."],
    "sources": ["A paper, https://example.org/paper"],
}


class Said(NamedTuple):
    """The text of an answer, and a number for it."""

    text: str
    score: float


@zoo.registry.register_architecture("tiny")
class TinyNetwork(nn.Module):
    """Reads text byte by byte and says one word for each."""

    task = "translation"

    def __init__(self, width: int = 4, words: list[str] | None = None):
        super().__init__()
        self.config = {"width": width}
        self.words = WORDS if words is None else words
        self.embedding = nn.Embedding(len(self.words), width)
        self.currents = nn.Linear(width, 2 * width)
        self.neuron = neurons.InputGatedLIF(bits=4)
        self.readout = nn.Linear(width, len(self.words))
        self.readout.weight = self.embedding.weight
        self.temperature = nn.Parameter(torch.tensor(0.1))

    def forward(self, tokens):
        y, _ = self.neuron(self.currents(self.embedding(tokens)))
        return self.readout(y) / self.temperature

    def check(self, text, where="the sentence"):
        if not text.strip():
            raise ValueError(f"{where} is empty")

    def translate_scored(self, sentences, beam_size=1):
        return [Said(text, -float(len(text))) for text in self.translate(sentences, beam_size)]

    def translate(self, sentences, beam_size=1):
        if beam_size < 1:
            raise ValueError(f"beam_size must be at least 1; got {beam_size}")
        device = self.embedding.weight.device
        inputs = [torch.tensor(list(text.encode()), device=device) % len(self.words) for text in sentences]
        with torch.inference_mode():
            said = [self(tokens.unsqueeze(1)).argmax(-1).flatten().tolist() for tokens in inputs]
        return [" ".join(self.words[word] for word in sentence) for sentence in said]

    def assets(self):
        return {"labels.json": json.dumps(self.words).encode()}

    @classmethod
    def from_config(cls, config, assets):
        return cls(config["width"], json.loads(assets["labels.json"]))


def trained() -> TinyNetwork:
    """A network whose range has been updated by a sequence, and that gives different words for different sentences."""
    torch.manual_seed(0)
    network = TinyNetwork().train()
    with torch.no_grad():
        network.embedding.weight.copy_(torch.eye(len(WORDS), 4))
        network.currents.weight.normal_(std=2)
        network.readout.bias.zero_()
    network(torch.randint(len(WORDS), (6, 2)))
    return network.eval()
