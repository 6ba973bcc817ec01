"""Training towards few synaptic operations, with teachers: counts, gradients, the controller, and whole trainings."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tiny_translator import PAIRS, translator
from torch.nn import functional as F
from typer.testing import CliRunner

import zoo
from recipes import multi30k, report, sparsity
from recipes.command import check_initial, command_line
from recipes.distillation import SoftTargets
from recipes.multi30k import Trainer, Training
from recipes.spikes import SpikeMeter
from tests.recipes.resuming import ends_as_if_never_interrupted
from zoo.networks.translation import TranslatorConfig

SENTENCES = [german for german, _ in PAIRS[:2]]
CPU = torch.device("cpu")
TINY = TranslatorConfig(vocabulary=120, width=16, encoder_layers=1, decoder_layers=1, heads=2)


@pytest.fixture
def corpus(tmp_path):
    """A folder in the layout of the raw Multi30k files, with the same sentences to train and to validate."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "val"):
        for side, language in enumerate(("de", "en")):
            text = "".join(pair[side] + "\n" for pair in PAIRS * 4)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
    return folder


def trainer(corpus, run, config=TINY, initial=None, **options) -> Trainer:
    usual = {"epochs": 2, "tokens": 60, "full_precision": 0.0, "learning_rate": 1e-2, "average": 0.5}
    return Trainer(corpus, run, config, Training(**usual | options), initial)


# Counting


def test_shares_are_those_of_the_operations_if_every_output_fired():
    model = translator()
    shares = sparsity.shares_of(model, SENTENCES)
    assert sum(shares.values()) == pytest.approx(1)
    vocabulary, width = model.embedding.weight.shape
    # A spike of the last layer meets the vocabulary, one of the context meets the output, as many steps of each.
    expected = vocabulary / width
    assert shares["decoder_spikes.neuron"] / shares["decoder.0.context_spikes.neuron"] == pytest.approx(expected)
    assert all(module.threshold_levels == 0 for module in model.modules() if hasattr(module, "threshold_levels"))


def test_shares_do_not_depend_on_the_threshold():
    plain, high = translator(), translator(threshold_levels=3, gated_threshold_levels=2)
    high.load_state_dict(plain.state_dict())
    assert sparsity.shares_of(high, SENTENCES) == sparsity.shares_of(plain, SENTENCES)
    assert high.decoder_spikes.neuron.threshold_levels == 3 and high.decoder[0].mixer.neurons[0].threshold_levels == 2


@pytest.mark.parametrize("mixer", ["relu", "lstm"])
def test_a_network_without_spikes_is_refused(mixer):
    with pytest.raises(ValueError, match="has no synaptic operations to make fewer"):
        sparsity.shares_of(translator(mixer), SENTENCES)


def test_the_gradient_counts_events_and_gives_up_small_ones_first():
    levels = torch.tensor([0.0, 1.0, -2.0, 4.0], requires_grad=True)
    fired = sparsity._Fired.apply(levels)
    fired.backward()
    assert fired.item() == 0.75
    torch.testing.assert_close(levels.grad, torch.tensor([0.0, 1.0, -0.5, 0.25]) / 4)


def test_the_operations_of_a_batch_are_the_weighed_share_of_outputs_that_fired():
    model = translator()
    controller = sparsity.Controller(model, SENTENCES, 0.1)
    source, shifted, target = multi30k.tensors(multi30k.encode(model.tokenizer, PAIRS), CPU)
    with SpikeMeter(model) as meter:
        model(source, shifted, target != 0)
    expected = sum(
        controller.shares[m] * (y != 0).float().mean() for m, _, y in meter.outputs if m in controller.shares
    )
    controller.weight = 2.0
    torch.testing.assert_close(controller.loss(meter, 0.5), 0.5 * 2.0 * expected)


# The controller


def controlled(operations: float, batches: int, controller=None, fall: float = 1.0) -> sparsity.Controller:
    controller = controller or sparsity.Controller(translator(), SENTENCES, 0.2)
    for _ in range(batches):
        controller._batch = torch.tensor(operations)
        controller.follow(fall)
    return controller


def test_the_weight_rises_above_the_goal_and_falls_below_it_within_bounds():
    above = controlled(0.3, 3)
    risen = above.weight
    assert 1 < risen < controlled(0.3, 50, above).weight < sparsity.MOST
    assert controlled(0.6, 400, above).weight == sparsity.MOST
    assert controlled(0.1, 4000, above).weight == sparsity.LEAST


def test_the_weight_stays_where_it_is_at_the_goal():
    settled = controlled(0.2, 300, controlled(0.3, 50))
    before = settled.weight
    assert before > 1 and controlled(0.2, 300, settled).weight == pytest.approx(before)


def test_the_goal_falls_from_the_first_operations_to_the_target():
    resting = controlled(0.6, 50, fall=0.0)
    assert resting.weight == pytest.approx(1.0)
    kept = resting.state_dict()
    again = sparsity.Controller(translator(), SENTENCES, 0.2)
    again.load_state_dict(json.loads(json.dumps(kept)))
    assert controlled(0.4, 3, again, 0.5).weight == controlled(0.4, 3, resting, 0.5).weight


# Training


def test_operations_are_trained_away_and_the_last_epoch_is_kept(corpus, tmp_path):
    kept = {}
    for share in (1.0, 0.1):
        run = trainer(corpus, tmp_path / str(share), epochs=8, operations=share)
        run.train()
        model = zoo.load(tmp_path / str(share) / "best")
        kept[share] = report.spike_rate(model, multi30k.calls(model, PAIRS))
    assert kept[0.1] < 0.8 * kept[1.0]
    log = [json.loads(line) for line in (tmp_path / "0.1" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["operations"] < log[0]["operations"]
    assert report.checkpoint_split(tmp_path / "0.1", "val") == "nothing, it is that of the last epoch"


def test_an_interrupted_run_ends_as_one_that_was_not(corpus, tmp_path):
    teacher = tmp_path / "teacher"
    trainer(corpus, teacher, epochs=1).train()
    options = {"operations": 0.3, "threshold_rise": 0.5, "teachers": str(teacher / "best"), "distillation": 0.5}
    config = replace(TINY, threshold_levels=2, gated_threshold_levels=1)
    ends_as_if_never_interrupted(lambda run: trainer(corpus, run, config, **options), tmp_path)


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1, float("nan"), "0.5", True, None])
def test_a_share_of_operations_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"operations (is a share|must be a finite number)"):
        Training(operations=share)


def test_options_are_checked_and_become_numbers_that_json_can_hold():
    given = {"operations": np.float32(0.5), "token_dropout": np.float32(0.25), "tokens": np.int64(70)}
    found = Training(**given, full_precision=0.0, threshold_rise=np.float16(0.5), bfloat16=np.bool_(False))
    assert json.loads(json.dumps(asdict(found))) == asdict(found)
    assert (found.operations, found.token_dropout, found.tokens, found.bfloat16) == (0.5, 0.25, 70, False)
    for wrong in ({"muon": "no"}, {"bfloat16": 1}, {"full_precision": None}, {"threshold_rise": "0.5"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Training(**wrong)
    with pytest.raises(TypeError, match="teachers is one text, names with commas between them"):
        Training(teachers=["a"], distillation=0.5)
    with pytest.raises(ValueError, match="a comma without a name"):
        Training(teachers="a,", distillation=0.5)


def test_a_training_that_cannot_begin_with_its_teacher_lets_go_of_its_folder(corpus, tmp_path):
    with pytest.raises(ValueError, match="has other tokens than the network") as kept:
        trainer(corpus, tmp_path / "run", teachers="lite-snn-imdb", distillation=0.5)
    assert kept.tb is not None  # which holds the trainer, as a notebook does
    trainer(corpus, tmp_path / "run").folder.let_go()


def test_thresholds_that_would_not_reach_their_levels_are_refused():
    with pytest.raises(ValueError, match="add up to at most 1"):
        Training(full_precision=0.8, threshold_rise=0.3)
    assert Training(full_precision=1.0).threshold_rise == 0


def test_thresholds_of_a_trained_model_can_be_changed_and_its_size_cannot(corpus, tmp_path):
    trainer(corpus, tmp_path / "first", epochs=1).train()
    start = str(tmp_path / "first" / "best")
    changed = replace(multi30k.CONFIG, threshold_levels=2, gated_threshold_levels=1)
    run = trainer(corpus, tmp_path / "second", changed, start)
    assert run.network.config == zoo.load(start).config | {"threshold_levels": 2, "gated_threshold_levels": 1}
    for name, value in zoo.load(start).state_dict().items():
        assert torch.equal(run.network.state_dict()[name], value), name
    check_initial(start, changed, multi30k.RECIPE)
    command = report.command_of(multi30k.RECIPE, tmp_path / "second")
    assert f"--initial {start} " in command and "--threshold-levels 2 --gated-threshold-levels 1" in command
    assert "--width" not in command and "--vocabulary" not in command
    with pytest.raises(ValueError, match=r"fine-tuned as it is; leave out --width$"):
        check_initial(start, replace(changed, width=32), multi30k.RECIPE)


def test_a_usual_value_that_the_model_does_not_have_is_refused_and_not_ignored(corpus, tmp_path):
    trainer(corpus, tmp_path / "first", replace(TINY, threshold_levels=2), epochs=1).train()
    options = ["--data", str(corpus), "--run", str(tmp_path / "run"), "--initial", str(tmp_path / "first" / "best")]
    found = CliRunner().invoke(command_line(multi30k.RECIPE), ["train", *options, "--threshold-levels", "0"])
    assert found.exit_code == 1
    assert "has threshold_levels 2, and --threshold-levels 0, the value without that option, cannot" in found.output
    assert not (tmp_path / "run").exists()


# Teachers


def soft_targets(*teachers) -> tuple[list, SoftTargets]:
    examples = multi30k.encode(teachers[0].tokenizer, PAIRS)
    to_tensors = lambda batch: multi30k.tensors(batch, CPU)  # noqa: E731
    return examples, SoftTargets(teachers, examples, to_tensors, teachers[0].typed_config.vocabulary, batch_size=2)


def test_soft_targets_are_the_mean_of_the_teachers_for_the_targets_of_any_batch():
    first, second = translator(), translator()
    with torch.no_grad():
        second.output_bias.add_(torch.linspace(0, 3, len(second.output_bias)))
    examples, soft = soft_targets(first, second)
    batch = [examples[3], examples[0]]
    source, shifted, target = multi30k.tensors(batch, CPU)
    real = target != 0
    with torch.no_grad():
        mean = sum(model(source, shifted, real).softmax(-1) for model in (first, second)) / 2
    places, probabilities, weight = soft.of(batch, 0.7, CPU)
    highest, expected = mean.topk(places.shape[1], -1)
    assert weight == 0.7 and torch.equal(places[:, 0], expected[:, 0])
    torch.testing.assert_close(probabilities, highest / highest.sum(-1, keepdim=True), rtol=2e-3, atol=1e-4)


def test_the_loss_mixes_labels_and_teachers():
    model = translator()
    examples, soft = soft_targets(model)
    batch = examples[:3]
    source, shifted, target = multi30k.tensors(batch, CPU)
    real, options = target != 0, Training(bfloat16=False, token_dropout=0.0, label_smoothing=0.0)
    of_teachers = soft.of(batch, 0.6, CPU)
    logits = model(source, shifted, real)
    dense = torch.zeros_like(logits).scatter(1, of_teachers.places, of_teachers.probabilities)
    expected = 0.4 * F.cross_entropy(logits, target[real]) + 0.6 * F.cross_entropy(logits, dense)
    torch.testing.assert_close(multi30k.loss_of(model, (source, shifted, target), options, soft=of_teachers), expected)


def test_mistakes_about_teachers_are_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="teachers go with a distillation"):
        Training(teachers="lite-snn-multi30k")
    with pytest.raises(ValueError, match="lite-snn-multi30k has other tokens"):
        trainer(corpus, tmp_path / "run", teachers="lite-snn-multi30k", distillation=0.5)


@pytest.mark.parametrize("name", ["improved-snn-librispeech", "lite-snn-dvs-gesture"])
def test_networks_of_other_tasks_have_shares(name):
    model = zoo.load(name, precision="float32")
    inputs = {
        "automatic-speech-recognition": lambda: (torch.randn(20, 1, model.bank.size),),
        "video-classification": lambda: (torch.randint(0, 5, (3, 1, *model.binning.shape)),),
    }[model.task]
    torch.manual_seed(0)
    shares = sparsity.shares_of(model, [inputs()])
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0


def test_a_network_that_averages_its_spikes_before_they_meet_weights_is_refused():
    with pytest.raises(ValueError, match="has no synaptic operations to make fewer"):
        sparsity.shares_of(zoo.load("lite-snn-imdb"), ["A dull film."])
