"""The text classifiers: the inputs of their weights, independence of padding and other texts, and errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

import neurons
import zoo
from recipes.imdb import train_tokenizer
from recipes.ngrams import most_frequent
from zoo.command import app
from zoo.engine.program import NotInIntegers
from zoo.networks.sentiment import MIXERS, PAD, TextClassifier, TextClassifierConfig, ngram_keys

TEXTS = [
    "A wonderful film, and the end is a joy.",
    "The plot is dull and the end is worse...",
    "Not a good film. Not a bad film. A film.",
    "I was not bored; I was asleep!<br /><br />The music is a joy.",
    "wonderful",
]
LABELS = ("negative", "positive")


def classifier(mixer: str = "input-gated-lif", ngrams: int = 40, **options) -> TextClassifier:
    """A small network with random weights and evidence, in evaluation mode."""
    torch.manual_seed(2)
    tokenizer = train_tokenizer(TEXTS * 2, 60)
    known = most_frequent([tokenizer.encode(text).ids for text in TEXTS * 2], ngrams)
    sizes = {"width": 8, "channels": 12, "initial_range": 1.0}
    config = TextClassifierConfig(LABELS, tokenizer.get_vocab_size(), len(known), mixer=mixer, **(sizes | options))
    model = TextClassifier(config, tokenizer)
    if model.ngrams is not None:
        model.ngrams.known.copy_(known)
        model.ngrams.evidence.data.normal_()
    return model.eval()


def batch(model: TextClassifier, texts: list[list[int]]) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], padding_value=PAD)


NETWORKS = {mixer: classifier(mixer).double() for mixer in MIXERS}
texts_of_ids = st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=9), min_size=1, max_size=5)


@pytest.mark.parametrize("mixer", MIXERS)
@given(texts=texts_of_ids, padding=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_neither_padding_nor_the_rest_of_a_batch_changes_a_text_s_logits(mixer, texts, padding):
    model = NETWORKS[mixer]
    together = model(batch(model, [*texts, [1] * (max(map(len, texts)) + padding)]))
    alone = torch.cat([model(batch(model, [text])) for text in texts])
    torch.testing.assert_close(together[: len(texts)], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_text_is_classified_alike_alone_and_among_others(mixer):
    model = classifier(mixer)
    many = model.classify([*TEXTS, *(f"{text} A film. " * 30 for text in TEXTS)])
    assert many[: len(TEXTS)] == [model.classify([text])[0] for text in TEXTS]


def test_probabilities_are_those_of_the_labels_and_the_first_is_the_largest():
    for found in classifier().classify(TEXTS):
        assert list(found.probabilities) == list(LABELS)
        assert sum(found.probabilities.values()) == pytest.approx(1)
        assert found.probability == found.probabilities[found.label] == max(found.probabilities.values())


@torch.no_grad()
def test_half_of_the_neurons_know_what_is_to_come_and_half_what_was():
    model = classifier(ngrams=0, kernel=1)
    outputs = []
    model.body.mixer.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
    first, last_changed, first_changed = [3, 4, 5, 6], [3, 4, 5, 7], [8, 4, 5, 6]
    for text in (first, last_changed, first_changed):
        model(batch(model, [text]))
    first, last_changed, first_changed = (y.squeeze(1).chunk(2, dim=1) for y in outputs)
    assert torch.equal(first[0][:3], last_changed[0][:3]) and not torch.equal(first[1][0], last_changed[1][0])
    assert torch.equal(first[1][1:], first_changed[1][1:]) and not torch.equal(first[0][3], first_changed[0][3])


@pytest.mark.parametrize("bits", [1, 2, 4])
@torch.no_grad()
def test_the_readout_pools_spikes_of_few_levels(bits):
    model = classifier(bits=bits)
    spikes = []
    for module in model.modules():
        if isinstance(module, neurons.Neuron):
            module.register_forward_hook(lambda module, inputs, output: spikes.append(output[0]))
    model.classify(TEXTS)
    levels = torch.cat([y.flatten() for y in spikes]).unique()
    assert 1 < len(levels) <= (2 if bits == 1 else 2 ** (bits - 1) + 1)


@torch.no_grad()
def test_the_bilstm_twin_is_pytorch_s_bidirectional_lstm_on_packed_sequences():
    model = classifier("bilstm").double()
    mixer, x, lengths = model.body.mixer, torch.randn(7, 3, 11, dtype=torch.double), [7, 2, 4]
    mask = (torch.arange(7).view(-1, 1, 1) < torch.tensor(lengths).view(-1, 1)).double()
    library = nn.LSTM(11, 6, bidirectional=True).double()
    for network, suffix in zip(mixer.networks, ("", "_reverse")):
        for name, value in network.named_parameters():
            getattr(library, name + suffix).copy_(value)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(library(packed)[0])
    torch.testing.assert_close(mixer(x, mask=mask)[0] * mask, expected)


@torch.no_grad()
def test_rr24_s_network_answers_with_its_integrator_s_membrane_a_time_step():
    model = classifier("learnable-lif", steps_per_word=3)
    seen = {}
    model.body.output.register_forward_hook(
        lambda module, inputs, output: seen.update(current=output, spikes=inputs[0])
    )
    logits = model(batch(model, [[3, 4, 5, 6, 7]]))
    assert seen["spikes"].shape == (15, 1, 12)
    assert set(seen["spikes"].unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(logits, seen["current"].mean(0))


# N-grams


def test_the_key_of_an_ngram_depends_on_its_words_and_their_order_alone():
    columns = [[9, 3, 4, 5, 6], [3, 4, 5, 9, 9], [9, 9, 4, 3, 5]]
    words, pairs, triples = ngram_keys(torch.tensor(columns).T).unbind(-1)
    assert words[1, 0] == words[0, 1] == words[3, 2] and words[1, 0] != words[2, 0]
    assert pairs[2, 0] == pairs[1, 1] and pairs[2, 0] != pairs[3, 2]  # "3 4" twice, and "4 3"
    assert triples[3, 0] == triples[2, 1] and triples[3, 0] != triples[4, 2]  # "3 4 5" twice, and "4 3 5"


def test_an_unknown_ngram_has_no_evidence_and_a_known_one_its_own_where_it_is_first():
    model = classifier()
    table = model.ngrams
    tokens = torch.tensor(model.encode(TEXTS[:1])[0] * 2).unsqueeze(1)
    evidence, keys = table(tokens).squeeze(1), ngram_keys(tokens).squeeze(1)
    value = dict(zip(table.known.tolist(), table.evidence.tolist()))
    for order in range(keys.shape[1]):
        seen = []
        for key, found in zip(keys[:, order].tolist(), evidence[:, order].tolist()):
            assert found == (0.0 if key in seen else value.get(key, 0.0))
            seen.append(key)
    assert (evidence[: len(evidence) // 2] != 0).any()
    unseen = table(torch.full((1, 1), 59))
    assert (unseen == 0).all()


def test_what_the_evidence_says_is_summed_and_added_to_the_logits():
    model = classifier()
    tokens = torch.tensor(model.encode(TEXTS[:1])[0]).unsqueeze(1)
    with torch.no_grad():
        without = model(tokens)
        model.evidence_current.weight.normal_()
        said = model.evidence_current(model.ngrams(tokens).sum(0))
        torch.testing.assert_close(model(tokens), without + said)
    assert said.abs().min() > 0


# Words


def test_words_are_lowercased_and_line_breaks_of_html_are_blanks():
    tokenizer = train_tokenizer(["I can't...<BR/>don't <br />say 8/10!"] * 2, 50)
    tokens = tokenizer.encode("I CAN'T...<br /><br>Don't say 8/10!").tokens
    assert tokens == ["i", "can't", "...", "don't", "say", "8", "/", "10", "!"]


def test_a_text_that_spells_a_special_token_is_text_and_a_saved_tokenizer_is_as_it_was():
    model = classifier()
    before = model.assets()
    assert set(model.encode(["a <pad> film <unk>"])[0]) >= set(model.encode(["a film"])[0])
    assert 0 not in model.encode(["a <pad> film", "<pad> a"])[0]
    assert model.classify(["a <pad>"]) == model.classify(["a <xyz>"])
    assert model.assets() == before


def test_a_text_of_any_length_is_read_to_its_end():
    model = classifier()
    long = "the plot is dull " * 3000
    assert model.classify([long + "wonderful"])[0] != model.classify([long + "dull"])[0]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("a film", TypeError, "put the one text in a list"),
        (["a film", 3], TypeError, "text 1 must be a string; got int"),
        (["a film", "  "], ValueError, "text 1 is empty"),
        (["<br /><br />"], ValueError, "text 0 is empty"),
        (iter(["a film"]), TypeError, "texts must be a list of strings; got list_iterator"),
        (["a film", "отличное кино"], ValueError, "text 1 has nothing that this model knows: 'отличное кино'"),
    ],
)
def test_what_cannot_be_classified_is_named(texts, error, message):
    with pytest.raises(error, match=message):
        classifier().classify(texts)


def test_no_texts_have_no_classifications():
    assert classifier().classify([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "transformer"}, "mixer must be one of input-gated-lif, .*; got 'transformer'"),
        ({"channels": 11}, "channels must be even"),
        ({"steps_per_word": 0}, "steps_per_word must be a whole number of at least 1; got 0"),
        ({"kernel": 0}, "kernel must be a whole number of at least 1; got 0"),
        ({"width": 2.5}, "width must be a whole number of at least 1; got 2.5"),
    ],
)
def test_a_config_that_builds_no_network_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextClassifierConfig(LABELS, 10, 10, **options)


@pytest.mark.parametrize("labels", [("one",), ("one", "one")])
def test_labels_are_two_or_more_and_different(labels):
    with pytest.raises(ValueError, match="labels must be at least two, and different"):
        TextClassifierConfig(labels, 10, 10)


# Saved, and on the command line


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_saved_classifier_says_the_same(mixer, tmp_path):
    model = classifier(mixer)
    zoo.save(model, tmp_path / "model")
    loaded = zoo.load(tmp_path / "model")
    assert loaded.config == model.config
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    zoo.save(loaded, tmp_path / "again")
    assert zoo.load(tmp_path / "again").classify(TEXTS) == loaded.classify(TEXTS)


@pytest.fixture
def folder(tmp_path):
    return f"{zoo.save(classifier(), tmp_path / 'model')}"


def test_classify_prints_a_label_and_its_probability_a_line(folder, tmp_path):
    expected = [f"{found.label}\t{found.probability:.4f}" for found in zoo.load(folder).classify(TEXTS)]
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    for arguments, given_input in (
        (TEXTS, None),
        (["--input", str(tmp_path / "texts.txt")], None),
        ([], "\n".join(TEXTS)),
    ):
        result = CliRunner().invoke(app, ["classify", folder, *arguments], input=given_input)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines() == expected


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["classify", "--input", "x.txt", "A film."], "give each text as an argument or all of them by --input", 1),
        (["classify", "кино"], "argument 1 has nothing that this model knows", 3),
        (["translate", "A film."], "is a model for text-classification, and does not translate", 1),
    ],
)
def test_an_error_of_the_command_is_one_line(folder, arguments, message, status):
    command, *rest = arguments
    result = CliRunner().invoke(app, [command, folder, *rest])
    assert result.exit_code == status
    assert len(result.stderr.splitlines()) == 1 and message in result.stderr


def test_a_classifier_says_why_it_computes_in_floats():
    with pytest.raises(NotInIntegers, match="its convolution takes embeddings, which are no spikes"):
        zoo.load("lite-snn-imdb", precision="int8")
