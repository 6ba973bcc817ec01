"""Fine-tuning on somebody's own examples: what a file may be, what is refused, what a card says, freezing and LoRA."""

import importlib.metadata
import importlib.util
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from tiny_network import TinyNetwork
from tiny_translator import PAIRS, translator
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import zoo
from recipes import dvs_gesture, fine_tune, imdb, multi30k, timit, tune
from recipes.adapters import low_rank
from recipes.extras import nothing_broken
from recipes.own_examples import read_own
from zoo.command import app
from zoo.command.failing import Commands
from zoo.errors import UnknownNameError
from zoo.networks.gesture import GestureConfig, GestureNetwork
from zoo.networks.sentiment import TextClassifier, TextClassifierConfig
from zoo.networks.speech import SpeechConfig, SpeechRecogniser

THINGS, GOOD, BAD = ["pen", "lid", "cup", "box", "hat", "car"], ["superb", "fine"], ["poor", "broken"]
OWN = [(f"The {thing} is {word}.", "good" if word in GOOD else "bad") for thing in THINGS for word in GOOD + BAD]


@pytest.fixture(scope="module")
def critic(tmp_path_factory) -> Path:
    """The folder of a small classifier that was not trained yet; its card says a licence and a language."""
    torch.manual_seed(0)
    tokenizer = imdb.train_tokenizer([text for text, _ in OWN], 60)
    config = TextClassifierConfig(("bad", "good"), tokenizer.get_vocab_size(), 0, width=8, channels=16, dropout=0.0)
    metrics = {"licence": "cc-by-4.0", "languages": ["en"]}
    return zoo.save(TextClassifier(config, tokenizer), tmp_path_factory.mktemp("models") / "critic", metrics)


def loaded(folder: Path, labels=None) -> TextClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zoo.load(folder, labels=labels)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


# The whole of it


def test_a_classifier_learns_and_says_how_it_did_before_and_after(critic):
    model = loaded(critic)
    found = fine_tune(model, OWN, epochs=30, learning_rate=1e-2)
    assert found.held_out[found.kept] < found.held_out[0]
    assert found.held_out_scores[1] == 100 > found.held_out_scores[0]
    assert "(accuracy " in str(found) and str(found).count("before, 100.0 now") == 1
    assert [one.label for one in model.classify([text for text, _ in OWN])] == [label for _, label in OWN]


def test_the_old_kind_is_scored_before_and_after_if_there_are_examples_of_it(critic):
    old = [("The pen is superb.", "good"), ("The pen is poor.", "bad")]
    found = fine_tune(loaded(critic), OWN, old_data=old, epochs=2)
    assert len(found.familiar) == len(found.familiar_scores) == 2 and "loss on what it knew" in str(found)
    assert fine_tune(loaded(critic), OWN, epochs=1).familiar == []


def test_a_bundled_model_is_watched_on_what_comes_with_its_recipe():
    model = zoo.load("lite-snn-imdb")
    known = imdb.familiar_reviews(model)
    assert min(sum(review.label == label for review in known) for label in imdb.LABELS) >= 4
    assert all(found.label == r.label for found, r in zip(model.classify([r.text for r in known]), known))
    opposite = [(r.text, "positive" if r.label == "negative" else "negative") for r in imdb.FAMILIAR] * 3
    with pytest.warns(UserWarning, match="got worse at what it knew"):
        found = fine_tune(model, opposite, learning_rate=2e-3, epochs=4)
    assert found.familiar_scores[0] == 100 > found.familiar_scores[1]


@pytest.mark.parametrize("count", [2, 8])
def test_a_bundled_translator_learns_from_any_number_of_pairs_and_its_captions_are_watched(count):
    pairs = [(f"Der Roboter hebt {n} Becher auf.", f"the robot picks up {n} cups.") for n in range(10, 10 + count)]
    found = fine_tune(zoo.load("lite-snn-multi30k"), pairs, epochs=1)
    assert len(found.losses) == 1 and found.familiar_scores[0] > 80
    assert len(found.held_out) == (2 if count == 8 else 0) == len(found.held_out_scores)


def test_a_recogniser_learns_phones_or_with_a_dictionary_words(tmp_path):
    noise = np.random.default_rng(0)
    (tmp_path / "cmudict.dict").write_text("one W AH1 N\ntwo T UW1\n")
    made = lambda: SpeechRecogniser(SpeechConfig(["AH", "N", "T", "UW", "W"], bands=8, width=12, layers=2)).eval()  # noqa: E731
    sounds = [noise.normal(0, 0.1, 8000).astype(np.float32) for _ in range(2)]
    torch.manual_seed(0)
    by_phones = fine_tune(made(), [(sounds[0], "W AH N"), (sounds[1], "T UW")], epochs=2)
    torch.manual_seed(0)
    words = [(sounds[0], "One!"), (sounds[1], "two")]
    by_words = fine_tune(made(), words, epochs=2, dictionary=tmp_path / "cmudict.dict")
    assert by_phones.losses == by_words.losses
    with pytest.raises(ValueError, match=r"recording 0 has the phone One!.*if the answers are words, give a dict"):
        fine_tune(made(), words)
    with pytest.raises(ValueError, match="recording 0 has the word SEVEN, and there is no pronunciation of it"):
        fine_tune(made(), [(sounds[0], "seven")], dictionary=tmp_path / "cmudict.dict")
    with pytest.raises(ValueError, match="recording 0: "):
        fine_tune(made(), [(np.full(8000, np.nan, np.float32), "W AH N")])


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        (translator(), multi30k.RECIPE),
        (GestureNetwork(GestureConfig(["a", "b"], channels=2, blocks=2, head=4)), dvs_gesture.RECIPE),
        (SpeechRecogniser(SpeechConfig(timit.PHONES, width=6, layers=1)), timit.RECIPE),
    ],
)
def test_the_recipe_is_found_by_the_kind_of_the_model_and_its_labels(model, recipe):
    assert tune.recipe_of(model) is recipe


def test_a_model_of_no_recipe_is_refused():
    with pytest.raises(TypeError, match="there is no recipe to fine-tune a TinyNetwork; there are recipes for: Ges"):
        fine_tune(TinyNetwork(), PAIRS)


# Freezing, and low-rank adapters


def test_a_frozen_part_stays_as_it_is_and_is_trained_again_next_time(critic):
    model = loaded(critic)
    before = weights(model)
    fine_tune(model, OWN, epochs=3, learning_rate=1e-2, freeze="embedding")
    assert "embedding.weight" not in changed(model, before) and "body.output.weight" in changed(model, before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    fine_tune(model, OWN, epochs=2, learning_rate=1e-2, all_but="embedding")
    middle = weights(model)
    fine_tune(model, OWN, epochs=30, learning_rate=1e-2, all_but=["readout"])
    assert changed(model, middle) == {"body.output.weight", "body.output.bias"}


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed: pip install peft")
def test_low_rank_adapters_change_the_linear_layers_alone_and_leave_an_ordinary_model(critic, tmp_path):
    model = loaded(critic, ["good", "middling", "bad"])
    model.newly_initialised.remove("body.output.bias")  # a tensor that is not new stays as it is
    before, kinds = weights(model), [type(module) for module in model.modules()]
    own = [(text, label if "fine" not in text else "middling") for text, label in OWN]
    found = fine_tune(model, own, lora=2, epochs=20, learning_rate=2e-2)
    assert found.held_out_scores[1] > found.held_out_scores[0]
    assert changed(model, before) == {"body.mixer.convolution.weight.weight", "body.output.weight"}
    change = model.body.mixer.convolution.weight.weight - before["body.mixer.convolution.weight.weight"]
    assert torch.linalg.matrix_rank(change.detach(), rtol=1e-4) == 2
    assert [type(module) for module in model.modules()] == kinds
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert zoo.load(zoo.save(model, tmp_path / "tuned")).classify(["The pen is fine."])


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed: pip install peft")
def test_after_an_error_a_model_has_no_adapters_and_its_old_weights(critic):
    model = loaded(critic)
    before, kinds = weights(model), [type(module) for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), low_rank(model, 2):
        for parameter in model.parameters():
            parameter.data += parameter.requires_grad
        raise RuntimeError("stop")
    assert not changed(model, before) and [type(module) for module in model.modules()] == kinds
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_peft_the_error_says_how_to_get_it(critic, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="LoRA needs peft; install it with: pip install peft"):
        fine_tune(loaded(critic), OWN, lora=2)


# Files


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


FILES = {
    "own.csv": "label,text\n" + "".join(f'{label},"{text}"\n' for text, label in OWN),
    "own.tsv": "id\ttext\tlabel\n" + "".join(f"7\t{text}\t{label}\n" for text, label in OWN),
    "own.jsonl": "".join(json.dumps({"text": text, "label": label, "id": 7}) + "\n" for text, label in OWN),
}


@pytest.mark.parametrize("name", FILES)
def test_a_csv_a_tsv_and_json_lines_hold_the_same(tmp_path, name):
    found = read_own(write(tmp_path, name, FILES[name]), "text", ("text", "label"), None, False)
    assert [(row.input, row.answer) for row in found.rows] == OWN
    assert found.rows[2].where == f"line {4 if name != 'own.jsonl' else 3} of {tmp_path / name}"
    assert found.description.startswith(f"{len(OWN)} examples in {name} (SHA-256 ")


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("stars,id,review", ("review", "stars")),
        ("label,id,text", None),
        ("Stars of it,id,text", ("text", "Stars of it")),
    ],
)
def test_columns_may_have_any_names_and_any_order(tmp_path, heading, columns):
    file = write(tmp_path, "own.csv", f"{heading}\n5,1,A fine pen.\n")
    (row,) = read_own(file, "text", ("text", "label"), columns, False).rows
    assert (row.input, row.answer) == ("A fine pen.", "5")


def test_of_two_columns_the_other_is_meant_if_one_has_its_usual_name(tmp_path):
    file = write(tmp_path, "own.csv", "label,review\ngood,A fine pen.\n")
    (row,) = read_own(file, "text", ("text", "label"), None, False).rows
    assert (row.input, row.answer) == ("A fine pen.", "good")


def test_inputs_that_are_files_lie_beside_the_table_and_labels_may_be_numbers(tmp_path):
    file = write(tmp_path, "own.jsonl", '{"file": "a/one.wav", "label": 3}\n')
    (row,) = read_own(file, "recording", ("file", "label"), None, True).rows
    assert (row.input, row.answer) == (tmp_path / "a" / "one.wav", "3")


def test_a_line_separator_within_a_text_ends_no_row(tmp_path):
    text = "Great\u2028positive,\x85 loved it"
    file = write(tmp_path, "own.csv", f'label,text\npositive,"{text}"\n')
    assert [row.input for row in read_own(file, "text", ("text", "label"), None, False).rows] == [text]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.txt", "text,label\n", r"own.txt must be a .csv, .tsv or .jsonl file"),
        ("own.csv", "", r"own.csv is empty"),
        ("own.jsonl", "\n\n", r"own.jsonl is empty"),
        ("own.csv", "text,label\n", r"own.csv holds no examples"),
        ("own.csv", "a,b,label\nA,B,good\n", r"own.csv has no column 'text'; it has 'a', 'b', 'label'. Say by columns"),
        ("own.csv", "a,b\nA,B\n", r"own.csv has no column 'text' and no column 'label'; it has 'a', 'b'"),
        ("own.csv", "text,text\nA,B\n", r"own.csv has two columns of the same name"),
        ("own.csv", "text,label\nA film.,good\nA plot.\n", r"line 3 of .*own.csv has no 'label'"),
        ("own.csv", "text,label\nA film.,good\nA plot.,\n", r"'label' in line 3 of .*own.csv is empty"),
        ("own.csv", "text,label\nA film.,NaN\n", r"'label' in line 2 of .*own.csv is NaN, a missing value"),
        (
            "own.csv",
            "label,text\ngood,Great, loved it\n",
            r"line 2 of .*own.csv has too many fields: quote text with",
        ),
        ("own.tsv", "label\ttext\ngood\tGreat\tit\n", r"line 2 of .*own.tsv has too many fields: quote text with tabs"),
        ("own.csv", 'text,label\n"A film,good\n', r"line 1 of .*own.csv is no CSV"),
        ("own.jsonl", '{"text": "A.", "label": "b"}\n{"text": \n', r"line 2 of .*own.jsonl is no JSON"),
        ("own.jsonl", '{"text": "A.", "label": NaN}\n', r"'label' in line 1 of .*own.jsonl is NaN, a missing value"),
        (
            "own.jsonl",
            '{"text": ["A."], "label": "b"}\n',
            r"'text' in line 1 of .*own.jsonl must be text; got \['A",
        ),
        ("own.jsonl", '{"text": "A.", "label": null}\n', r"line 1 of .*own.jsonl has no 'label'"),
        ("own.jsonl", '["A film.", "good"]\n', r"line 1 of .*own.jsonl is no object with named fields"),
    ],
)
def test_a_file_that_is_no_table_of_examples_is_one_error(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_own(write(tmp_path, name, content), "text", ("text", "label"), None, False)


# What cannot be learned from


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([], {}, ValueError, "there are no texts to fine-tune on"),
        ({"text": "A"}, {}, TypeError, "examples are a list of pairs or the path of a file; got dict"),
        (
            [("A pen.", "good"), "A lid."],
            {},
            TypeError,
            "text 1 must be a pair of an input and its answer; got 'A",
        ),
        ([("A pen.", "good"), ("", "bad")], {}, ValueError, "text 1 is empty"),
        ([("A pen.", "good"), (float("nan"), "bad")], {}, ValueError, "text 1 is NaN, a missing value"),
        ([("A pen.", "good"), ("A lid.", 1)], {}, TypeError, "the answer of text 1 must be text; got 1"),
        (
            [("A pen.", "good"), ("A lid.", "god")],
            {},
            ValueError,
            "text 1: no label .* is called 'god'; did you mean",
        ),
        (
            [("A pen.", "good"), ("A lid.", "x")],
            {},
            ValueError,
            r"To learn other labels, .*labels=\[...\]\), or --new",
        ),
        (
            [("A pen.", "good")] * 9,
            {},
            ValueError,
            "all 9 examples have the label 'good'; a classifier needs ex",
        ),
        (
            OWN,
            {"freeze": "embeding"},
            UnknownNameError,
            "part of this network is called 'embeding'; did you mean 'embed",
        ),
        (OWN, {"all_but": "neurons"}, ValueError, "nothing is left to train with all but neurons frozen"),
        (OWN, {"epochs": 0}, ValueError, "epochs must be a whole number of at least 1; got 0"),
        (OWN, {"lora": -1}, ValueError, "lora must be a whole number of at least 0"),
        (OWN, {"lora": 2, "freeze": "embedding"}, ValueError, "with lora all weights are frozen; leave out freeze"),
        (
            OWN,
            {"dictionary": "x"},
            UnknownNameError,
            "no option of fine-tuning for text-classification is called",
        ),
        (OWN, {"old_data": []}, ValueError, "there are no texts"),
        (OWN, {"columns": ("a", "b")}, ValueError, "are of a file, and the examples are a list"),
        ("./no.csv", {}, FileNotFoundError, "no.csv"),
    ],
)
def test_what_cannot_be_learned_from_is_one_error_and_the_model_stays_as_it_was(critic, data, options, error, message):
    model = loaded(critic)
    before = weights(model)
    with pytest.raises(error, match=message):
        fine_tune(model, data, **options)
    assert not changed(model, before) and not model.training and not hasattr(model, "provenance")
    assert all(parameter.requires_grad for parameter in model.parameters())


# The card, and the command


def test_a_card_says_what_was_tuned_on_what_and_how_and_inherits_licence_and_language(critic, tmp_path):
    model = loaded(critic)
    file = write(tmp_path, "own.csv", FILES["own.csv"])
    found = fine_tune(model, file, epochs=1, seed=3)
    metrics = zoo.info(zoo.save(model, tmp_path / "tuned")).metrics
    assert {key: metrics[key] for key in ("base_model", "licence", "languages", "seeds")} == {
        "base_model": "critic", "licence": "cc-by-4.0", "languages": ["en"], "seeds": [3]
    }  # fmt: skip
    card = (tmp_path / "tuned" / "README.md").read_text()
    front = card.split("---")[1]
    assert "base_model" not in front, "it is no name of the Hub"
    assert "license: cc-by-4.0" in front and "- en" in front
    assert "weights of `critic`, on 24 examples in own.csv (SHA-256 " in card and str(found) in card
    assert f"recipes.fine_tune(zoo.load('critic'), '{file}', epochs=1, seed=3)" in card
    again = zoo.load(tmp_path / "tuned")
    assert again.origin["base_model"] == "tuned" and again.origin["licence"] == "cc-by-4.0"


def snn_zoo(*words) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_several_processes_do_not_fine_tune_into_one_folder(critic, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = write(tmp_path, "own.csv", FILES["own.csv"])
    status, _, error = snn_zoo("fine-tune", critic, "--data", file, "--output", tmp_path / "tuned")
    assert status == 1 and "fine-tune is a command for one process" in error
    assert not (tmp_path / "tuned").exists()


def test_the_command_learns_the_labels_of_a_file_with_any_columns(critic, tmp_path):
    rows = "".join(f"{label.upper()},{text}\n" for text, label in OWN)
    file = write(tmp_path, "own.csv", f"Stars,Said\n{rows}")
    options = ["--columns", "Said", "Stars", "--freeze", "n-grams", "--epochs", 30, "--learning-rate", 0.01]
    words = ["fine-tune", critic, "--data", file, "--output", tmp_path / "new", "--new-labels", *options]
    status, said, warned = snn_zoo(*words)
    assert status == 0 and warned.startswith("snn-zoo: new labels: 'BAD', 'GOOD'. ") and warned.count("\n") == 1
    model = zoo.load(tmp_path / "new")
    assert said.splitlines()[-1] == str(tmp_path / "new")
    assert [one.label for one in model.classify(["The pen is superb.", "The box is poor."])] == ["GOOD", "BAD"]
    assert zoo.info(tmp_path / "new").metrics["commands"] == [" ".join(["snn-zoo", *map(str, words)])]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("text,label\n", [], "own.csv holds no examples"),
        ("text,label\nA pen.,good\nA lid.,good\n", ["--new-labels"], "all 2 examples have the label 'good'"),
        ("text,label\nA pen.,fair\nA lid.,good\n", [], "line 2 of "),
        ("text,label\nA pen.,bad\nA lid.,good\n", ["--freeze", "bdy"], "called 'bdy'; did you mean 'body'?"),
    ],
)
def test_an_error_of_the_command_is_one_line_and_nothing_is_written(critic, tmp_path, rows, options, message):
    file = write(tmp_path, "own.csv", rows)
    status, said, warned = snn_zoo("fine-tune", critic, "--data", file, "--output", tmp_path / "new", *options)
    assert (status, said, warned.count("\n")) == (1, "", 1) and message in warned
    assert not (tmp_path / "new").exists()


def test_a_loss_that_is_not_finite_is_one_line():
    commands = typer.Typer(cls=Commands, add_completion=False)

    @commands.command("fail")
    def fail():
        raise FloatingPointError("the loss is nan in epoch 1")

    commands.command("other")(lambda: None)
    result = CliRunner().invoke(commands, ["fail"])
    assert (result.exit_code, result.stderr) == (1, "snn-zoo: the loss is nan in epoch 1\n")


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(critic, tmp_path):
    write(tmp_path, "mine.txt", "mine")
    status, said, warned = snn_zoo("fine-tune", critic, "--data", tmp_path / "no.csv", "--output", tmp_path)
    assert (status, said) == (1, "") and "is neither empty nor a model's folder, so nothing is saved to it" in warned


def test_a_translator_has_no_labels_to_replace(tmp_path):
    words = ["fine-tune", "lite-snn-multi30k", "--data", tmp_path / "no.csv", "--output", tmp_path / "new"]
    status, _, warned = snn_zoo(*words, "--new-labels")
    assert status == 1 and warned == "snn-zoo: a model for translation has no labels, so it can learn no new ones\n"


# Loops of one's own


def own_batches(model: TextClassifier) -> DataLoader:
    """Batches of token ids ``[T, B]`` and labels ``[B]``, by torch's own loader."""

    def collate(rows):
        tokens = [torch.tensor(ids) for ids in model.encode([text for text, _ in rows])]
        labels = torch.tensor([model.typed_config.labels.index(label) for _, label in rows])
        return nn.utils.rnn.pad_sequence(tokens), labels

    generator = torch.Generator().manual_seed(0)
    return DataLoader(OWN, batch_size=8, shuffle=True, collate_fn=collate, generator=generator)


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_plain_loop_with_a_scheduler_autocast_and_checkpointing_learns(critic, tmp_path, recomputed):
    model = loaded(critic).train()
    batches, epochs = own_batches(model), 30
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=epochs * len(batches))
    for _ in range(epochs):
        for tokens, labels in batches:
            with torch.autocast("cpu", torch.bfloat16):
                logits = checkpoint(model, tokens, use_reentrant=False) if recomputed else model(tokens)
            F.cross_entropy(logits.float(), labels).backward()
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
    found = model.eval().classify([text for text, _ in OWN])
    assert [one.label for one in found] == [label for _, label in OWN]
    info = zoo.info(zoo.save(model, tmp_path / "tuned", model.origin))
    assert (info.metrics["base_model"], info.licence) == ("critic", "cc-by-4.0")


def imported_lightning():
    """Lightning, or a skip. It asks the metadata of packages whether there is a torchvision, and then imports it."""
    version = importlib.metadata.version

    def of_what_can_be_imported(name: str) -> str:
        if sys.modules.get(name, name) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    with nothing_broken(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", of_what_can_be_imported)
        return pytest.importorskip("lightning")


def test_lightning_trains_a_model(critic, tmp_path):
    lightning = imported_lightning()

    class Tuned(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = loaded(critic)

        def training_step(self, batch, place):
            tokens, labels = batch
            return F.cross_entropy(self.model(tokens), labels)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    module = Tuned().train()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_epochs=20, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(module, own_batches(module.model))
    found = module.model.eval().classify([text for text, _ in OWN])
    assert [one.label for one in found] == [label for _, label in OWN]


@pytest.mark.parametrize("module", [imdb, multi30k])
def test_the_function_is_found_in_the_module_of_a_task_too(module):
    assert module.fine_tune is fine_tune


def test_labelled_texts_of_any_length_are_read_from_both_kinds_of_files(tmp_path):
    text = ("a very good film " * 8000).strip()
    (tmp_path / "a.csv").write_text(f'text,label\n"{text}",positive\n')
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text, "label": "positive"}) + "\n")
    first, second = (imdb.read_labelled(tmp_path / name) for name in ("a.csv", "a.jsonl"))
    assert first == second == [imdb.Review(text, "positive")] and len(text) > 131_072
