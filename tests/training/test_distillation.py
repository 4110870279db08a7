"""Teacher, criterion and training step of a distillation, on models small enough to compute them by hand."""

import copy
import csv
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import published
from helpers.distillation import SMALL_DEMO, STUDENT, TEACHER, make_model, make_plan, outputs, save
from helpers.losses import loss_of_states
from helpers.runs import run

from criterions.base import AllowedIds
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.checkpoint import load
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions, PrefixTree
from ofa.tokenizer import Tokenizer
from training.distillation.module import DistillationModule
from training.distillation.student import start_from_teacher, teacher_layers
from training.freezing import Freezing
from training.optim import Optim

CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def second_teacher(tmp_path_factory):
    return save(make_model(STUDENT, 2), tmp_path_factory.mktemp("runs") / "second_teacher")


def make_module(teacher, criterion=None, **settings):
    plan, model = make_plan(teacher, criterion, **settings), make_model(STUDENT, 3)
    task = SimpleNamespace(processor=SimpleNamespace(tree=None))
    parts = (model, task, GenerationOptions(), plan.criterion, Optim(lr=1e-3), Freezing())
    module = DistillationModule(*parts, teacher=plan.load_teacher(), allowed=plan.allowed)
    plan.initialize(model)
    module.total_steps = 10
    return module


def test_the_loss_is_the_sum_of_its_parts_as_computed_by_hand(teacher, batch):
    pairs = ["last:attention_mse_sum:encoder", {"rule": [[1, 2]], "loss": "cos", "stack": "decoder", "weight": 3.0}]
    module = make_module(
        teacher, ce_weight=0.5, kd_weight=2.0, feature_losses=pairs, feature_weight=10.0, projection="relu"
    ).eval()
    loss = module.loss(batch)
    ours, theirs = outputs(module.model, batch), outputs(module.teacher.models[0], batch)

    tokens = batch.target != 1
    log_p = ours.logits[tokens].log_softmax(-1)
    nll = -log_p.gather(1, batch.target[tokens][:, None])[:, 0]
    eps = 0.1 / (log_p.shape[1] - 1)
    ce = ((0.9 - eps) * nll + eps * -log_p.sum(-1)).mean()
    kd = -(theirs.logits[tokens].softmax(-1) * log_p).sum(-1).mean()
    source = torch.tensor([[1] * 8, [1] * 7 + [0]]).bool()  # 4 patches, then text
    cells = source[:, :, None] & source[:, None]
    maps = [
        ((ours.encoder_attentions[i].sum(1) - theirs.encoder_attentions[i + 1].sum(1)) ** 2)[cells].mean()
        for i in range(2)
    ]
    read = batch.decoder_input_ids != 1
    cosines = []
    for i, j in ((0, 0), (2, 3)):  # the embeddings, and the outputs of student layer 1 and teacher layer 2
        projection = module.criterion.projections[str(len(maps) + len(cosines))]
        projected = projection(ours.decoder_hidden_states[i])
        cosines.append(1 - F.cosine_similarity(projected, theirs.decoder_hidden_states[j], dim=-1)[read].mean())
    expected = {
        "ce": ce,
        "nll": nll.mean(),
        "kd": kd,
        "attention_mse_sum_encoder": 10 * sum(maps),
        "cos_decoder": 3 * sum(cosines),
        "loss": 0.5 * ce + 2 * kd + 10 * sum(maps) + 3 * sum(cosines),
    }
    assert loss.terms.keys() == expected.keys()
    torch.testing.assert_close(loss.terms, expected, **CLOSE)
    torch.testing.assert_close(loss.sum / loss.sample_size, expected["loss"], **CLOSE)


@pytest.mark.parametrize("case", ["range", "tree"])
def test_the_logits_that_count_are_those_of_the_allowed_ids(case, teacher, batch):
    tree = PrefixTree([[7], [8, 9], [8, 10]]) if case == "tree" else None
    constraint_range = [7, 11] if case == "range" else None
    module = make_module(teacher, tree=tree, constraint_range=constraint_range, temperature={"base": 2.0}).eval()
    allowed = [[0, 1, 2, 3, 7, 8, 9, 10]] * 5 if tree is None else [[7, 8], [9, 10], [2], [7, 8], [2]]
    tokens = batch.target != 1
    ours, theirs = (outputs(model, batch).logits[tokens] / 2 for model in (module.model, module.teacher.models[0]))
    kd = [-(t[a].softmax(0) * s[a].log_softmax(0)).sum() for s, t, a in zip(ours, theirs, allowed, strict=True)]
    torch.testing.assert_close(module.loss(batch).terms["kd"], sum(kd) / 5, **CLOSE)


def test_training_changes_student_and_projections_and_not_the_teacher(teacher, batch):
    module = make_module(
        teacher, feature_losses="first:hidden_mse:encoder,first:value_relation:cross", projection="linear"
    )
    theirs = module.teacher.models[0]
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    initial = {name: tensor.clone() for name, tensor in module.named_parameters()}
    optimizer = module.optim.optimizer(module)
    for _ in range(2):
        optimizer.zero_grad()
        module.train().loss(batch).sum.backward()
        optimizer.step()
    assert not theirs.training and all(p.grad is None for p in theirs.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in theirs.state_dict().items())
    for name in ("criterion.projections.0.weight", "model.encoder.layers.0.fc1.weight"):
        assert not torch.equal(module.get_parameter(name), initial[name])
    assert {name.split(".")[0] for name in module.state_dict()} == {"model", "criterion"}
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert updated == {id(p) for p in module.parameters() if p.requires_grad} and not updated & {
        id(p) for p in theirs.parameters()
    }
    assert copy.deepcopy(module).teacher is module.teacher


def test_a_student_starts_from_the_same_weights_with_projections_and_without(teacher):
    states = []
    for settings in ({}, {"feature_losses": "first:cos:encoder", "projection": "linear"}):
        torch.manual_seed(3)
        make_plan(teacher, **settings)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_with_only_the_loss_on_the_targets_it_is_plain_training(teacher, batch):
    module = make_module(teacher).eval()
    module.criterion.kd_weight = 0.0
    hidden = module.model.decoder(
        batch.decoder_input_ids, module.model.encoder(batch.input_ids, batch.patch_images, batch.patch_masks)
    ).last_hidden_state
    plain = loss_of_states(LabelSmoothedCrossEntropy(0.1), module.model, hidden, batch.target)
    torch.testing.assert_close(module.loss(batch).sum, plain.sum / plain.sample_size, **CLOSE)


def test_weights_grow_and_decay_over_the_run(teacher, batch):
    module = make_module(teacher, ce_schedule="decaying", kd_schedule="growing").eval()
    for step in (0, 5, 10, 12):  # constant after the last
        type(module).global_step = step
        terms = module.loss(batch).terms
        progress = min(1, step / 10)
        expected = (1 - progress) * terms["ce"] + progress * terms["kd"]
        torch.testing.assert_close(terms["loss"], expected, **CLOSE)


def test_rdrop_takes_two_passes_of_the_student_and_one_of_the_teacher(teacher, batch):
    once = make_module(teacher).eval().loss(batch)
    twice = make_module(teacher, LabelSmoothedCrossEntropy(0.1, rdrop_alpha=1.0)).eval()
    calls, encode = [], twice.teacher.models[0].encoder.forward
    twice.teacher.models[0].encoder.forward = lambda ids, *args: (calls.append(len(ids)), encode(ids, *args))[1]
    torch.testing.assert_close(twice.loss(batch).terms["kd"], once.terms["kd"], **CLOSE)
    assert calls == [2]


@pytest.mark.parametrize("kd", ["ce", "mse"])
def test_several_teachers_are_averaged(kd, teacher, second_teacher, batch):
    module = make_module([teacher, second_teacher], kd=kd).eval()
    tokens = batch.target != 1
    theirs = [outputs(model, batch).logits[tokens] for model in module.teacher.models]
    ours = outputs(module.model, batch).logits[tokens]
    if kd == "mse":
        expected = (ours - sum(theirs) / 2).square().mean()
    else:
        expected = -(sum(logits.softmax(-1) for logits in theirs) / 2 * ours.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(module.loss(batch).terms["kd"], expected, **CLOSE)


def test_the_teacher_may_see_the_students_images_larger(teacher, batch):
    module = make_module(teacher, teacher_image_size=64, feature_losses="first:cos:decoder", projection="linear").eval()
    images = F.interpolate(batch.patch_images, (64, 64), mode="bicubic", antialias=True)
    theirs = outputs(module.teacher.models[0], batch, images)
    given = module.teacher(batch, module.allowed.targets(batch.target))
    torch.testing.assert_close(given.logits, theirs.logits[batch.target != 1], **CLOSE)


def test_the_teacher_has_a_precision_of_its_own(teacher, batch):
    targets = AllowedIds().targets(batch.target)
    full, half = (
        make_plan(teacher, teacher_precision=precision).load_teacher() for precision in ("32-true", "bf16-true")
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert full(batch, targets).logits.dtype == torch.float32
        assert half(batch, targets).logits.dtype == torch.bfloat16
    torch.testing.assert_close(half(batch, targets).logits.float(), full(batch, targets).logits, rtol=0.1, atol=0.3)


def test_a_teacher_of_encoder_states_only_does_not_decode(teacher, batch):
    module = make_module(teacher, kd=None, feature_losses="gap:attention_ce_mean:encoder").eval()
    module.teacher.models[0].decoder = None
    assert module.loss(batch).terms.keys() == {"loss", "ce", "nll", "attention_ce_mean_encoder"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kd": None}, "there is no loss on the teacher"),
        ({"kd": "mes"}, "distill.kd=mes is not one of ce, ce_with_mask, .*, mse; did you mean 'mse'"),
        ({"on_policy": {"weight": -1}}, "distill.on_policy.weight=-1 is not a number of at least 0"),
        ({"kd": ["ce", "mse"]}, r"distill.kd=\['ce', 'mse'\] is not one of ce, ce_with_mask"),
        ({"ce_weight": -1}, "distill.ce_weight=-1 is not a number of at least 0; 0 leaves the targets out"),
        ({"ce_weight": None}, "distill.ce_weight=null is not a number of at least 0"),
        ({"kd_weight": None}, "distill.kd_weight=null is not a number of at least 0"),
        ({"kd_weight": float("nan")}, "distill.kd_weight=nan is not a number of at least 0"),
        ({"kd_schedule": ["growing"]}, "distill.kd_schedule=.* is not one of"),
        ({"kd_schedule": "grow"}, "distill.kd_schedule=grow is not one of .*; did you mean 'growing'"),
        ({"temperature": {"base": 0}}, "distill.temperature.base=0 is not a number above 0"),
        ({"feature_losses": "first:attention_mse:encoder"}, "the student has 4 heads and the teacher 6"),
        (
            {"feature_losses": "first:hidden_mse:encoder"},
            "the student is 64 wide and the teacher 96; set the projection",
        ),
        ({"teacher": []}, "distill.teacher names no teacher; give a run"),
        ({"teacher": None}, "distill.teacher names no teacher; give a run"),
        ({"teacher": "nowhere"}, "checkpoint nowhere does not exist"),
        ({"teacher_precision": "bf16"}, "distill.teacher_precision=bf16 is not one of .*; did you mean 'bf16-true'"),
        ({"teacher_image_size": 688}, "has positions for 672 px and would see 688 px"),
        (
            {"teacher_image_size": 64, "feature_losses": "first:attention_mse_sum:cross"},
            "distill.teacher_image_size=64: attention_mse_sum:cross compares source positions",
        ),
        ({"projection": "gelu"}, "distill.projection=gelu is not one of linear, relu, tanh"),
        (
            {"projection": "relu"},
            "distill.projection has no effect where distill.feature_losses is null; set distill.feature_losses",
        ),
        ({"feature_weight": 2}, "distill.feature_weight has no effect where distill.feature_losses is null"),
        ({"feature_weight": None}, "distill.feature_weight=null is not a number"),
        (
            {"feature_schedule": "growing"},
            "distill.feature_schedule has no effect where distill.feature_losses is null",
        ),
        ({"cache_views": 2}, "distill.cache_views has no effect where distill.cache is null"),
        ({"cache_top_k": None}, "distill.cache_top_k has no effect where distill.cache is null"),
        ({"kd": None, "kd_schedule": "growing"}, "distill.kd_schedule has no effect where distill.kd is null"),
        ({"kd": None, "probability_shift": True}, "distill.probability_shift has no effect where distill.kd is null"),
        ({"kd": None, "temperature": {"base": 2.0}}, "distill.temperature has no effect where distill.kd is null"),
        ({"kd_weight": 0.0}, "distill.kd_weight=0 computes a loss on logits .*; set distill.kd=null"),
        ({"on_policy": {"weight": 0.0, "loss": "jsd"}}, "have no effect without distill.on_policy.weight"),
        ({"teacher_image_size": 32, "image_size": None}, "distill.teacher_image_size=32 has no effect on a task with"),
        (
            {"kd": "ce", "constraint_range": [7, 11]},
            r"distill.kd=ce is .* restricted to criterion.constraint_range=\[7, 11\]; set distill.kd=ce_with_mask",
        ),
        ({"kd": "ce", "tree": PrefixTree([[7]])}, "distill.kd=ce is .* the answers of the task; .*=ce_with_mask"),
        ({"init_from_teacher": "frist"}, "distill.init_from_teacher: there is no layer rule 'frist'"),
        ({"init_from_teacher": "last3"}, "distill.init_from_teacher: student layer -1"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_are_read(settings, message, teacher, monkeypatch):
    monkeypatch.setattr("training.distillation.plan.load_model", None)
    with pytest.raises(UserError, match=message):
        make_plan(**{"teacher": teacher, **settings})


def test_a_teacher_of_the_original_trainer_is_taken_to_have_the_students_vocabulary(tmp_path, caplog):
    file = published.write_args(make_model(TEACHER, 1), tmp_path / "teacher.pt")
    with caplog.at_level("INFO"):
        plan = make_plan(str(file))
    assert plan.weight_files == [file] and plan.load_teacher().models[0].config.d_model == TEACHER.d_model
    assert f"there is no vocabulary with {file}; it is assumed to be the current one" in caplog.text


def test_on_policy_may_be_the_only_loss_on_the_teacher(teacher):
    plan = make_plan(teacher, kd=None, on_policy={"weight": 1.0, "loss": "jsd", "temperature": 0.5})
    assert (plan.on_policy.loss, plan.on_policy.temperature, plan.criterion.kd) == ("jsd", 0.5, None)
    assert make_plan(teacher).on_policy is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_losses": "first:attention_mse_sum:encoder"}, "distill.teacher names 2"),
        ({"init_from_teacher": "first"}, "distill.teacher names 2"),
        ({"temperature": {"schedule": "flsw"}}, r"distill.teacher names 2 .* distill.temperature.schedule=flsw reads"),
    ],
)
def test_what_needs_one_teacher_is_refused_with_two(settings, message, teacher):
    with pytest.raises(UserError, match=message):
        make_plan([teacher, teacher], **settings)
    assert make_plan([teacher, teacher], kd="mse", temperature={"schedule": "flsw"}).mean_of == "logits"


@pytest.mark.parametrize(
    ("student", "teacher", "changes", "message"),
    [
        ("tiny", "huge", {}, "the student's encoder has heads 64 wide and the teacher's 80"),
        (
            "tiny",
            "large",
            {"decoder_attention_heads": 8},
            "the student's decoder has heads 64 wide and the teacher's 128",
        ),
        ("base", "tiny", {}, "the student is 768 wide and the teacher 256, too narrow"),
    ],
)
def test_a_student_starts_from_heads_as_wide_and_from_no_narrower_teacher(student, teacher, changes, message):
    with pytest.raises(UserError, match=f"distill.init_from_teacher=first: {message}"):
        teacher_layers("first", OFAConfig.from_name(student), OFAConfig.from_name(teacher, **changes))


def test_a_teacher_with_another_vocabulary_is_refused(teacher, vocabulary, tmp_path):
    other = save(make_model(STUDENT, 2), tmp_path / "other")
    Tokenizer.from_pretrained(vocabulary).save(tmp_path / "other/tokenizer")
    with pytest.raises(UserError, match=r"was trained with another vocabulary, .*; set tokenizer=.*other/tokenizer"):
        make_plan(other)
    Tokenizer.demo().save(tmp_path / "other/tokenizer")
    make_plan(other)


def test_a_student_starts_from_chosen_layers_and_the_leading_channels(teacher):
    ours, theirs = make_model(STUDENT, 3), make_plan(teacher).load_teacher().models[0]
    before = ours.encoder.layers[0].fc1.weight.clone()
    start_from_teacher(ours, theirs, teacher_layers("last1", STUDENT, TEACHER))
    assert torch.equal(ours.encoder.layers[1].fc1.weight, theirs.encoder.layers[2].fc1.weight[:256, :64])
    assert torch.equal(ours.encoder.embed_tokens.weight, theirs.encoder.embed_tokens.weight[:, :64])
    assert torch.equal(ours.encoder.layers[0].fc1.weight, before)
    module = make_module(teacher, init_from_teacher=[[0, 2], [1, 0]])
    cut = theirs.decoder.layers[0].cross_attn.q_proj.bias[:64]
    assert torch.equal(module.model.decoder.layers[1].cross_attn.q_proj.bias, cut)


def test_a_run_distills_a_run_and_its_checkpoint_is_like_any_other(tmp_path):
    run("train.py", *SMALL_DEMO, "hydra.run.dir=teacher", folder=tmp_path)
    distill = ["distill=ofa_compress", "distill.teacher=teacher"]
    process = run("train.py", *SMALL_DEMO, *distill, "ema.decay=0.9", "hydra.run.dir=student", folder=tmp_path)
    assert "Layer mapping" in process.stdout
    header = (tmp_path / "student/metrics.csv").read_text().splitlines()[0]
    for name in ("ce", "kd", "attention_mse_sum_encoder", "attention_mse_sum_decoder"):
        assert f"train/{name}" in header
    plain, distilled = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("teacher", "student")
    )
    assert plain.keys() == distilled.keys()
    more = ["distill=hidden", "distill.teacher=teacher", "distill.init_from_teacher=gap",
            "distill.on_policy.weight=1", "trainer.precision=bf16-mixed"]  # fmt: skip
    run("train.py", *SMALL_DEMO, *more, "hydra.run.dir=projected", folder=tmp_path)
    load(tmp_path / "projected")
    with (tmp_path / "projected/metrics.csv").open(newline="") as file:
        values = [row["train/on_policy"] for row in csv.DictReader(file) if row["train/on_policy"]]
    assert len(values) == 2 and all(float(value) > 0 for value in values)
    saved = torch.load(tmp_path / "projected/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"model", "criterion"}
