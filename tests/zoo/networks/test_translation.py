"""The translators: the inputs of their weights, their state from token to token, and errors."""

import itertools

import numpy as np
import pytest
import torch
from tiny_translator import PAIRS, token_batch, translator
from torch import nn

import neurons
from zoo.networks.decoding import beam_search, most_likely
from zoo.networks.translation import BEGIN, END, MIXERS, PAD, Translator, TranslatorConfig, pad


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_decoding_token_by_token_equals_decoding_the_whole_target(mixer):
    model = translator(mixer)
    memory, target = model.encode(token_batch(model, 0)), token_batch(model, 1)
    whole, _ = model.scan(target, None, memory)
    state, steps = None, []
    for tokens in target:
        step, state = model.scan(tokens.unsqueeze(0), state, memory)
        steps.append(step)
    torch.testing.assert_close(torch.cat(steps), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_padding_does_not_reach_the_keys_and_values_of_a_sentence(mixer):
    model = translator(mixer)
    batch = token_batch(model, 0)
    together, mask = model.encode(batch)
    for i, column in enumerate(batch.T):
        length = int((column != PAD).sum())
        assert mask[i].sum() == length
        alone, _ = model.encode(column[:length].unsqueeze(1))
        for (key, value), (own_key, own_value) in zip(together, alone):
            assert torch.equal(key[i, :, :length], own_key[0, :, :length])
            assert torch.equal(value[i, :, :length], own_value[0, :, :length])


@pytest.mark.parametrize("bits", [1, 2, 4])
@torch.no_grad()
def test_every_weight_layer_after_the_embedding_takes_spikes_of_few_levels(bits):
    model = translator(bits=bits)
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    spikes, _ = model.scan(token_batch(model, 1), None, model.encode(token_batch(model, 0)))
    inputs["output"] = spikes
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert sorted(inputs) == sorted([*linear, "output"])
    one_neuron = 2 if bits == 1 else 2**bits - 1
    for name, x in inputs.items():
        neurons_in_front = 2 if "output" in name or "query" in name or "key" in name else 1
        assert x.unique().numel() <= neurons_in_front * one_neuron, name
        assert x.any(), name


def test_gated_neurons_have_a_range_of_their_own():
    model = translator(initial_range=1.5, gated_range=3.0)
    ranges = {kind: set() for kind in (neurons.InputGatedLIF, neurons.MultiBitLIF)}
    for module in model.modules():
        if isinstance(module, neurons.MultiBitNeuron):
            ranges[type(module)].add(module.spike_range.value().item())
    assert ranges == {neurons.InputGatedLIF: {3.0}, neurons.MultiBitLIF: {1.5}}


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_translation_does_not_depend_on_the_rest_of_the_batch(mixer, beam_size):
    model = translator(mixer)
    german = [pair[0] for pair in PAIRS]
    together = model.translate(german, beam_size=beam_size)
    assert together == [model.translate([text], beam_size=beam_size)[0] for text in german]
    assert together[::-1] == model.translate(german[::-1], beam_size=beam_size, batch_size=2)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("hypotheses", [1, 3, 5])
@torch.no_grad()
def test_scores_are_the_same_bits_alone_and_beside_sentences_of_other_lengths(mixer, hypotheses):
    model = translator(mixer, width=64)

    def scores(source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The log-probability of each token after the first ones, of ``tokens [T, B * hypotheses]``."""
        memory, state, steps = model.encode(source), None, []
        for step in tokens:
            spikes, state = model.scan(step.unsqueeze(0), state, memory)
            steps.append(model.logits(spikes[0]))
        return torch.stack(steps)

    generator = torch.Generator().manual_seed(0)
    lengths = [1, 2, 7, 16, 19, 50, 127, 130, 150, 200]
    vocabulary = model.typed_config.vocabulary
    sources = [torch.randint(END + 2, vocabulary, (n,), generator=generator).tolist() for n in lengths]
    tokens = torch.randint(END + 2, vocabulary, (4, len(lengths) * hypotheses), generator=generator)
    together = scores(pad(sources), tokens)
    for i, source in enumerate(sources):
        own = slice(i * hypotheses, (i + 1) * hypotheses)
        assert torch.equal(scores(pad([source]), tokens[:, own]), together[:, own])
        shorter = scores(pad(sources[: i + 1]), tokens[:, : own.stop])
        assert torch.equal(shorter, together[:, : own.stop])


def markov_chain(vocabulary: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocabulary, vocabulary, generator=generator).mul(2).log_softmax(-1)


def after_table(chain):
    """A decoder without state: ``chain[token]`` are the log-probabilities of the next."""
    return lambda tokens, state, memory, count: (most_likely(chain[torch.from_numpy(tokens)], count), None)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_best_sequence_there_is(seed, length_penalty):
    begin, end, vocabulary, longest = 0, 1, 4, 4
    chain = markov_chain(vocabulary, seed)
    chain[:, begin] = float("-inf")

    def score(sequence: tuple[int, ...]) -> float:
        path = (begin, *sequence, end)
        return sum(chain[a, b].item() for a, b in itertools.pairwise(path)) / (len(path) - 1) ** length_penalty

    inner = [token for token in range(vocabulary) if token not in (begin, end)]
    sequences = [s for n in range(longest) for s in itertools.product(inner, repeat=n)]
    best = max(sequences, key=score)
    found = beam_search(
        after_table(chain),
        None,
        np.array([longest]),
        beam_size=40,
        length_penalty=length_penalty,
        begin=begin,
        end=end,
    )
    assert tuple(found[0].tokens) == best


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_one_takes_the_likeliest_token_each_time(seed):
    chain = markov_chain(6, seed)
    chain[:, 0] = float("-inf")
    expected, token = [], 0
    while len(expected) < 5:
        token = int(chain[token].argmax())
        if token == 1:
            break
        expected.append(token)
    found = beam_search(
        lambda t, s, m, n: (most_likely(chain[torch.from_numpy(t)], n), None),
        None,
        np.array([5]),
        1,
        1.0,
        begin=0,
        end=1,
    )
    assert [hypothesis.tokens for hypothesis in found] == [expected]


def test_sentences_of_a_batch_end_at_their_own_longest_length():
    chain = torch.full((4, 4), -5.0)
    chain[:, 2] = 0.0
    chain = chain.log_softmax(-1)
    chain[:, :2] = float("-inf")  # never ends by itself
    found = beam_search(
        lambda t, s, m, n: (most_likely(chain[torch.from_numpy(t)], n), None),
        None,
        np.array([2, 5, 1]),
        2,
        1.0,
        begin=0,
        end=1,
    )
    assert [len(hypothesis.tokens) for hypothesis in found] == [2, 5, 1]


@pytest.mark.parametrize(
    ("sentences", "error", "message"),
    [
        ("Ein Hund.", TypeError, "in a list"),
        (["Ein Hund.", 7], TypeError, "sentence 1 must be a string; got int"),
        ([None], TypeError, "sentence 0 must be a string; got NoneType"),
        (["Ein Hund.", " \n"], ValueError, "sentence 1 is empty"),
        (["一只狗在雪地里奔跑。"], ValueError, "sentence 0 is not in a script"),
        (["Собака бежит по снегу."], ValueError, "sentence 0 is not in a script"),
        (["Ein Hund rennt. " * 100], ValueError, r"sentence 0 has \d+ tokens and the model takes at most 255; split"),
    ],
)
def test_text_that_cannot_be_translated_is_one_clear_error(sentences, error, message):
    with pytest.raises(error, match=message):
        translator().translate(sentences)


def test_a_beam_of_no_hypothesis_is_refused():
    with pytest.raises(ValueError, match="beam_size must be a whole number from 1 to 120; got 0"):
        translator().translate(["Ein Hund."], beam_size=0)


def test_no_sentences_give_no_translations():
    assert translator().translate([]) == []


def test_known_punctuation_alone_is_translated_and_unknown_is_refused():
    assert len(translator().translate([".", ". ."])) == 2
    for nothing in ("12:30", "\U0001f600"):
        with pytest.raises(ValueError, match="sentence 1 has nothing that this model knows"):
            translator().translate([".", nothing])


def test_a_sentence_that_spells_a_special_token_is_text():
    model = translator()
    for text in ("Ein <pad> Hund", "Ein </s> Hund", "<s> Ein Hund"):
        assert not {PAD, BEGIN, END} & set(model._encoded([text])[0][:-1])
    assert model._encoded(["Ein Hund"])[0][-1] == END


@pytest.mark.parametrize("kernel", [1, 2])
def test_a_kernel_of_any_size_decodes_token_by_token(kernel):
    assert len(translator(kernel=kernel).translate(["Ein Hund.", "Eine Frau"], beam_size=2)) == 2


@pytest.mark.parametrize("part", ["encoder", "decoder", "embedding"])
@pytest.mark.parametrize("training", [False, True])
def test_a_part_of_the_network_may_be_in_another_mode_than_the_rest(part, training):
    model = translator("lstm", dropout=0.0)  # no spikes, which a rounding may change
    source, target = token_batch(model, 0), token_batch(model, 1)
    expected = model(source, target, target != PAD)
    model.train(training).get_submodule(part).train(not training)
    torch.testing.assert_close(model(source, target, target != PAD), expected)


def test_translating_leaves_each_module_in_the_mode_it_was_in():
    model = translator().eval()
    model.dropout.train()
    model.translate(["Ein Hund."])
    assert model.dropout.training and not model.training and not model.encoder.training


def test_translating_leaves_the_model_in_the_mode_it_was_in():
    model = translator().train()
    ranges = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.translate(["Ein Hund."])
    assert model.training
    assert all(torch.equal(buffer, ranges[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "lif"}, "mixer must be one of"),
        ({"width": 36}, "width must divide into 4 heads and two directions; got 36"),
        ({"kernel": 0}, "kernel must be a whole number of at least 1; got 0"),
        ({"encoder_layers": 0}, "encoder_layers must be a whole number of at least 1; got 0"),
        ({"bits": 9}, "bits must be a whole number from 1 to 8"),
    ],
)
def test_a_config_that_cannot_be_built_is_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        translator(**options)


def test_a_tokenizer_of_another_size_is_refused():
    model = translator()
    with pytest.raises(ValueError, match="the tokenizer has 120 tokens and the config says 99"):
        Translator(TranslatorConfig(vocabulary=99), model.tokenizer)


def test_the_first_token_is_the_beginning():
    model = translator()
    assert [model.tokenizer.token_to_id(t) for t in ("<pad>", "<s>", "</s>", "<unk>")] == [PAD, BEGIN, END, 3]
