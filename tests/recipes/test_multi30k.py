"""The Multi30k recipe on a small corpus written here: reading, training, resuming, fine-tuning, scoring."""

import gzip
import json
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import neurons
import zoo
from recipes import fine_tune, multi30k, report, training
from recipes.multi30k import Trainer, Training
from tests.recipes.resuming import ends_as_if_never_interrupted
from zoo.networks.translation import END, UNKNOWN, Translator, TranslatorConfig

SUBJECTS = [("Ein Hund", "a dog"), ("Eine Frau", "a woman"), ("Der Mann", "the man"), ("Ein Kind", "a child")]
VERBS = [("rennt", "runs"), ("schläft", "sleeps"), ("springt", "jumps"), ("lacht", "laughs")]
PLACES = [("im Park", "in the park"), ("im Schnee", "in the snow"), ("auf der Straße", "on the street")]
PAIRS = [(f"{s[0]} {v[0]} {p[0]}.", f"{s[1]} {v[1]} {p[1]}.") for s in SUBJECTS for v in VERBS for p in PLACES]
SMALL = TranslatorConfig(vocabulary=120, width=32, encoder_layers=1, decoder_layers=1)


@pytest.fixture
def corpus(tmp_path):
    """A folder in the layout of the raw Multi30k files: train plain, val packed."""
    folder = tmp_path / "data"
    folder.mkdir()
    for side, language in enumerate(("de", "en")):
        text = "".join(pair[side] + "\n" for pair in PAIRS)
        (folder / f"train.{language}").write_text(text, encoding="utf-8")
        (folder / f"val.{language}.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_both_plain_and_packed_files_are_read(corpus):
    assert multi30k.read_split(corpus, "train") == PAIRS
    assert multi30k.read_split(corpus, "val") == PAIRS


def test_a_missing_split_says_where_to_get_it(corpus):
    with pytest.raises(FileNotFoundError, match=r"no test_2016_flickr.de .*github.com/multi30k/dataset"):
        multi30k.read_split(corpus, "test_2016_flickr")


def test_sides_of_different_length_are_refused(corpus):
    (corpus / "train.en").write_text("a dog.\n")
    with pytest.raises(ValueError, match="train has 48 German lines and 1 English ones"):
        multi30k.read_split(corpus, "train")


def test_the_tokenizer_gives_lowercased_text_back():
    text = "A dog   runs, (laughs) in the Park: the man's child."
    tokenizer = multi30k.train_tokenizer([*PAIRS, ("Ein Hund?", text)], 120)
    assert tokenizer.decode(tokenizer.encode(text).ids) == "a dog runs, (laughs) in the park: the man's child."


@given(lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_batches_hold_every_example_once_within_the_token_limit(lengths):
    examples = [([5] * source, [6] * target) for source, target in lengths]
    plan = multi30k.batches(examples, 40, random.Random(0))
    assert sorted(example for batch in plan for example in batch) == sorted(examples)
    assert all(len(batch) * max(len(side) for pair in batch for side in pair) <= 40 for batch in plan)


def test_dropped_tokens_are_unknown_and_marks_are_never_dropped():
    tokens = torch.randint(0, 50, (40, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(multi30k.drop_tokens(tokens, 0.0), tokens)
    everything = multi30k.drop_tokens(tokens, 1.0)
    assert torch.equal(everything, torch.where(tokens > END, torch.tensor(UNKNOWN), tokens))
    torch.manual_seed(0)
    changed = multi30k.drop_tokens(tokens, 0.2) != tokens
    assert 0.1 < changed.float().mean() < 0.3 and not changed[tokens <= END].any()


def spike_rate(model, pairs) -> float | None:
    return report.spike_rate(model, multi30k.calls(model, pairs))


def trainer(corpus, run, epochs=2, **options) -> Trainer:
    config = replace(SMALL, **{k: options.pop(k) for k in list(options) if k not in Training.__dataclass_fields__})
    return Trainer(corpus, run, config, Training(epochs=epochs, tokens=200, **options))


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("mixer", ["input-gated-lif", "lstm"])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(corpus, tmp_path, mixer, muon):
    ends_as_if_never_interrupted(lambda run: trainer(corpus, run, mixer=mixer, token_dropout=0.1, muon=muon), tmp_path)


def test_muon_has_the_weight_matrices_and_nothing_else(corpus):
    network = Translator(SMALL, multi30k.train_tokenizer(PAIRS, SMALL.vocabulary))
    (everything,) = training.optimisers_of(network, Training(muon=False))
    adamw, muon = training.optimisers_of(network, Training(muon=True, learning_rate=3e-3))
    named = {id(p): name for name, p in network.named_parameters()}
    by_muon, by_adamw, all_names = (
        {named[id(p)] for group in optimiser.param_groups for p in group["params"]}
        for optimiser in (muon, adamw, everything)
    )
    assert by_muon | by_adamw == all_names == set(named.values()) and not by_muon & by_adamw
    assert "embedding.weight" in by_adamw and "decoder.0.attention.query.weight" in by_muon
    assert by_muon == {name for name, p in network.named_parameters() if p.dim() == 2} - {"embedding.weight"}


def bits(network) -> set[int]:
    return {module.bits for module in network.modules() if isinstance(module, neurons.MultiBitNeuron)}


def test_neurons_fire_in_full_precision_in_the_steps_of_the_first_epochs_and_in_their_bits_else(corpus, tmp_path):
    run, fired = trainer(corpus, tmp_path, epochs=3, full_precision=2 / 3, learning_rate=1e-3), []
    own = run.loss_of
    run.loss_of = lambda batch, part: fired.append((run.epoch, bits(run.network))) or own(batch, part)
    for _ in range(3):
        run.run_epoch()
        assert bits(run.network) == bits(run.average.module) == {SMALL.bits}
    run.folder.let_go()
    for epoch, expected in enumerate((32, 32, SMALL.bits)):
        assert [found for at, found in fired if at == epoch] == [{expected}] * len(run.plan(0))
    assert bits(zoo.load(tmp_path / "best")) == {SMALL.bits}


def test_neurons_have_their_own_bits_again_when_a_step_fails(corpus, tmp_path):
    run = trainer(corpus, tmp_path, full_precision=1.0)
    run.loss_of = lambda batch, part: exec("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert bits(run.network) == {SMALL.bits}


@pytest.mark.parametrize("share", [-0.1, 15, float("nan")])
def test_a_share_in_full_precision_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="full_precision must be a finite number from 0 to 1; got"):
        Training(full_precision=share)


def test_a_processor_without_bfloat16_is_named_and_trains_in_float32(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.bfloat16.is_fast", lambda device_type: False)
    with pytest.warns(UserWarning, match="no instructions for bfloat16: the products are computed in float32"):
        run = trainer(corpus, tmp_path / "asked", bfloat16=True)
    run.train()
    trainer(corpus, tmp_path / "plain", bfloat16=False).train()
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("asked", "plain")]
    assert [json.loads(row)["loss"] for row in logs[0]] == [json.loads(row)["loss"] for row in logs[1]]


def test_muon_that_torch_lacks_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match=r"Muon came with torch 2\.9 .* pip install 'torch>=2\.9,<2\.14'"):
        trainer(corpus, tmp_path / "run", muon=True)


def test_a_run_is_not_resumed_with_other_options(corpus, tmp_path):
    trainer(corpus, tmp_path / "run", epochs=1).train()
    with pytest.raises(ValueError, match="was started with other options"):
        trainer(corpus, tmp_path / "run", epochs=3)


@pytest.mark.slow
def test_training_learns_the_corpus_and_keeps_the_best_model(corpus, tmp_path):
    run = trainer(corpus, tmp_path / "run", epochs=35, learning_rate=1e-2, dropout=0.0, token_dropout=0.0, average=0.9)
    run.train()
    model = zoo.load(tmp_path / "run" / "best")
    hypotheses, scores = multi30k.evaluate(model, PAIRS, beam_size=3)
    assert scores["bleu"] > 80
    assert "case:lc" in scores["signature"] and "tok:13a" in scores["signature"]
    assert "case:mixed" in scores["signature_cased"]
    assert scores["bleu"] == pytest.approx(multi30k.bleu(hypotheses, [p[1] for p in PAIRS], lowercase=True)[0])
    assert 0 < spike_rate(model, PAIRS[:5]) < 1

    before = multi30k.evaluate(model, NEW, beam_size=1)[1]["bleu"]
    with pytest.warns(UserWarning, match="got worse at what it knew"):  # the new pairs are wrong
        found = fine_tune(model, NEW, epochs=12, learning_rate=5e-3)
    assert found.losses[-1] < 0.7 * found.losses[0] and found.held_out[found.kept] < found.held_out[0]
    assert multi30k.evaluate(model, NEW, beam_size=1)[1]["bleu"] > before
    assert not model.training


NEW = [("Der Hund lacht.", "the man sleeps in the park."), ("Das Kind rennt.", "the dog jumps on the street.")] * 4


def test_a_spike_penalty_makes_spikes_rarer(corpus, tmp_path):
    rates = []
    for penalty in (0.0, 30.0):
        run = trainer(
            corpus,
            tmp_path / f"penalty{penalty}",
            epochs=6,
            learning_rate=2e-2,
            spike_penalty=penalty,
            average=0.5,
            range_tracking="fixed",
            full_precision=0.0,
        )
        run.train()
        rates.append(spike_rate(run.average.module.eval(), PAIRS[:8]))
    assert rates[1] < 0.9 * rates[0]
    saved = zoo.load(tmp_path / "penalty30.0" / "best")  # the last epoch, whatever the earlier epochs scored
    assert spike_rate(saved, PAIRS[:8]) == pytest.approx(rates[1], abs=0.02)
    assert report.checkpoint_split(tmp_path / "penalty30.0", "val") == "nothing, it is that of the last epoch"
    assert report.checkpoint_split(tmp_path / "penalty0.0", "val") == "val"


def test_runs_are_measured_once_profiled_and_bundled_with_a_card(corpus, tmp_path, monkeypatch):
    for language in ("de", "en"):
        text = (corpus / f"train.{language}").read_text(encoding="utf-8")
        (corpus / f"test_2016_flickr.{language}").write_text(text, encoding="utf-8")
    runs = {name: tmp_path / name for name in ("spiking", "relu", "sparse")}
    trainer(corpus, runs["spiking"], range_tracking="fixed").train()
    trainer(corpus, runs["relu"], mixer="relu").train()
    tuned = Training(epochs=1, tokens=200, spike_penalty=5.0, learning_rate=1e-2)
    Trainer(corpus, runs["sparse"], SMALL, tuned, initial=str(runs["spiking"] / "best")).train()
    options = {"beam_size": 1, "length_penalty": 1.0}
    for run in runs.values():
        scores = report.measure(multi30k.RECIPE, run, PAIRS, PAIRS, **options)
        with monkeypatch.context() as without:
            without.setattr(zoo, "load", None)
            assert report.measure(multi30k.RECIPE, run, PAIRS, PAIRS, **options) == scores
        with monkeypatch.context() as other:
            other.setattr(report, "measured_once", lambda record, key, measure: key["data"])
            assert report.measure(multi30k.RECIPE, run, PAIRS, PAIRS[:3], **options) != scores["data"]
    costs = report.measure_costs(multi30k.RECIPE, runs["spiking"], [runs["relu"]], "tiny", PAIRS[:1])
    assert [row["name"] for row in costs["rows"]] == ["tiny", "ReLU in place of neurons"]
    report.measure_costs(multi30k.RECIPE, runs["sparse"], [], "any", PAIRS[:1])
    for _ in range(2):  # the second time replaces the first
        report.bundle(
            multi30k.RECIPE,
            [runs["spiking"]],
            tmp_path / "tiny",
            "A tiny translator.",
            [runs["relu"]],
            [runs["sparse"]],
        )
    assert zoo.load(tmp_path / "tiny").translate(["Ein Hund."], beam_size=1)
    card = (tmp_path / "tiny" / "README.md").read_text()
    assert "ReLU in place of neurons" in card and "tuned, spike penalty 5" in card
    products = {row["name"]: row[report.NEEDED] for row in zoo.files.read_metrics(tmp_path / "tiny")["sparsity"]}
    assert products["tuned, spike penalty 5"] > 0 and products["tiny"] == report.needed(costs["rows"][0])
    assert f"{products['tuned, spike penalty 5']:,}" in card
    for picture in ("costs.png", "sparsity.png"):
        assert f"]({picture})" in card and (tmp_path / "tiny" / picture).stat().st_size > 5000
    assert (
        f"train --data DATA --run {runs['spiking']}" in card
        and f"costs {runs['spiking']} --name tiny --twin {runs['relu']}" in card
    )
    record = runs["sparse"] / "costs.json"
    record.write_text(record.read_text().replace('"any": "', '"any": "0'))
    with pytest.raises(ValueError, match=r"costs\.json was measured before .*; measure it again"):
        report.sparse_point(multi30k.RECIPE, runs["sparse"])


def test_a_row_says_what_was_chosen_for_a_twin():
    def run_config(mixer="input-gated-lif", bits=4, dropout=0.1, **training):
        model = {"mixer": mixer, "bits": bits, "dropout": dropout}
        return {"model": model, "training": {"full_precision": 1.0, "teachers": ""} | training}

    own = run_config()
    assert report.described(multi30k.RECIPE, run_config("gru"), own) == "GRU with attention"
    assert (
        report.described(multi30k.RECIPE, run_config("relu", dropout=0.2), own)
        == "ReLU in place of neurons (dropout 0.2)"
    )
    binary = "input-gated LIF, binary spikes (full precision 0.5)"
    assert report.described(multi30k.RECIPE, run_config(bits=1, full_precision=0.5), own) == binary
    taught = run_config(teachers="a,b", full_precision=0.5)
    of_two = "input-gated LIF, 4-bit spikes (full precision 0.5, 2 teachers)"
    assert report.described(multi30k.RECIPE, taught, own) == of_two
    assert report.described(multi30k.RECIPE, run_config("gru"), taught) == "GRU with attention (without teachers)"


def test_a_network_without_spikes_has_no_spike_rate():
    tokenizer = multi30k.train_tokenizer(PAIRS, 120)
    config = replace(SMALL, vocabulary=tokenizer.get_vocab_size(), mixer="gru")
    model = multi30k.Translator(config, tokenizer)
    assert spike_rate(model, PAIRS[:2]) is None


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "there are no sentences to fine-tune on"),
        ([("Ein Hund.", " ")], "the answer of sentence 0 is empty"),
        ([("Ein Hund.", float("nan"))], "the answer of sentence 0 is NaN"),
        ([("a " * 300, "a")], r"sentence 0 has \d+ tokens and the model takes at most 255"),
        ([("Ein Hund.", "a " * 300)], "sentence 0: its translation is empty, or of more than 255 tokens"),
        ([("你好", "hello")], "sentence 0 is not in a script this model has seen"),
    ],
)
def test_pairs_that_cannot_be_learned_from_are_refused(pairs, message):
    tokenizer = multi30k.train_tokenizer(PAIRS, 120)
    config = replace(SMALL, vocabulary=tokenizer.get_vocab_size())
    model = multi30k.Translator(config, tokenizer)
    with pytest.raises(ValueError, match=message):
        fine_tune(model, pairs)


def test_a_model_that_is_fine_tuned_keeps_its_options(corpus, tmp_path):
    result = CliRunner().invoke(
        multi30k.command_line(),
        [
            "train",
            "--data",
            str(corpus),
            "--run",
            str(tmp_path),
            "--initial",
            "any",
            "--width",
            "64",
            "--kernel",
            "2",
            "--bits",
            "2",
        ],
    )
    assert result.exit_code == 1
    assert result.stderr == "snn-zoo: any is fine-tuned as it is; leave out --width, --kernel\n"


def test_the_learning_rate_rises_and_falls_once():
    options = Training(learning_rate=1.0, warmup=0.25)
    rates = [training.learning_rate(i / 100, options) for i in range(101)]
    assert rates[0] == 0 and rates[25] == 1 and rates[100] == pytest.approx(0)
    assert rates[:26] == sorted(rates[:26]) and rates[25:] == sorted(rates[25:], reverse=True)
