"""Every number of a matched-prefix pass, on all six architectures, from stepwise decoding of plain PyTorch hybrids."""

import copy
import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers.core.depths import final_fifth, windows
from nbhelpers.core.params import FAMILIES, ParameterError
from nbhelpers.measures import forced_tokens, graft_shifts, matched_prefix
from nbhelpers.measures.graft_shifts import AXES, PROJECTIONS
from nbhelpers.measures.lens import LensError
from nbhelpers.measures.lens_conditions import INTEGERS, READOUTS
from nbhelpers.models import generation
from nbhelpers.models.conditions import BASELINES, condition_edits, swaps
from nbhelpers.models.decoder import Pair, wrap
from nbhelpers.models.edits import InterventionError, edited
from nbhelpers.models.tokens import TokenizerError
from tests import grafted
from tests.grafted import BASES, LENGTHS, LENSES, PROJECTED, case, measured, slow

families = pytest.mark.parametrize("family", FAMILIES)
CLOSE = {"rtol": 2e-3, "atol": 3e-4}


@cache
def steps(family):
    """What `measure` makes of a family's case, whole."""
    return measured(case(family), projected=PROJECTED)


def each_step():
    """(position in the data, prompt, step) of every step."""
    pairs = [(prompt, step) for prompt, length in enumerate(LENGTHS) for step in range(length)]
    return [(at, *each) for at, each in enumerate(pairs)]


@cache
def slow_logp(family, reader, lens, name):
    """Float64 log-probabilities of a condition's steps through one lens, [step][layer, row]."""
    given = case(family)
    decoder, tuned = getattr(given.pair, reader), given.lenses[reader] if lens == "tuned" else None
    return [
        grafted.real_log_probabilities(decoder, slow(family)[name][prompt]["after"][step], tuned)
        for _, prompt, step in each_step()
    ]


def same_order(ours, logp, target, row_of):
    """Whether the leading token and the target's rank fit log-probabilities [layer, row], ties within rounding aside."""
    top = logp.gather(-1, torch.tensor([[row_of[int(i)]] for i in ours["top1"]]))[:, 0]
    assert (top > logp.amax(-1) - 1e-3).all()
    above = logp - logp[:, target : target + 1]
    rank = torch.as_tensor(ours["target_rank"])
    assert ((above > 1e-3).sum(-1) <= rank - 1).all() and (rank - 1 <= (above > -1e-3).sum(-1) - 1).all()


@families
def test_readings_equal_stepwise_decoding_of_swapped_modules(family):
    """Through every basis and lens: both KL directions, every endpoint, JS, entropy, ranks and log-probabilities."""
    given, found = case(family), steps(family)
    rows = {d.variant: {int(i): at for at, i in enumerate(d.unembedding.token_ids)} for d in given.pair}
    targets = [given.made[prompt].ids[step] for _, prompt, step in each_step()]
    for condition, lens, basis in itertools.product(given.conditions, LENSES, BASES):
        reader = condition.host if basis == "host" else basis
        own, base, teacher = (
            slow_logp(family, reader, lens, name) for name in (condition.name, condition.baseline, "C")
        )
        chosen = found.sel(condition=condition.name, lens=lens, basis=basis)
        expected = [
            grafted.slow_readings(*each, rows[reader][target])
            for *each, target in zip(own, base, teacher, targets)
        ]
        for name in set(READOUTS) - set(INTEGERS):
            values = torch.stack([each[name] for each in expected]).numpy()
            np.testing.assert_allclose(chosen[name].transpose("step", "layer"), values, err_msg=name, **CLOSE)
        for at, target in enumerate(targets):
            ours = {name: chosen[name].isel(step=at).values for name in INTEGERS}
            same_order(ours, own[at], rows[reader][target], rows[reader])


@families
def test_overlaps_of_candidates_equal_stepwise_decoding(family):
    """The twenty best tokens beside the baseline's, where neither has a twentieth and a next one that nearly tie."""
    given, found, compared = case(family), steps(family), 0
    for condition, lens, basis in itertools.product(given.conditions, LENSES, BASES):
        reader = condition.host if basis == "host" else basis
        ours = found.candidate_overlap.sel(condition=condition.name, lens=lens, basis=basis)
        if condition.name not in PROJECTED:
            assert ours.isnull().all()
            continue
        assert ours.isnull().any("step").values.tolist() == [layer < 9 for layer in range(12)]
        both = (slow_logp(family, reader, lens, name) for name in (condition.name, condition.baseline))
        for at, (own, base) in enumerate(zip(*both)):
            for layer in range(9, 12):
                best = [row[layer].topk(21) for row in (own, base)]
                if min(float(each.values[19] - each.values[20]) for each in best) < 1e-3:
                    continue
                one, other = ({*each.indices[:20].tolist()} for each in best)
                wanted, compared = len(one & other) / len(one | other), compared + (one != other)
                assert float(ours.isel(step=at, layer=layer)) == pytest.approx(wanted)
    assert compared > 50


@families
def test_geometry_and_residuals_equal_stepwise_decoding(family):
    found = steps(family)
    cosine = torch.nn.functional.cosine_similarity
    for name, at_prompt in slow(family).items():
        chosen, teacher = found.sel(condition=name), slow(family)["C"]
        for at, prompt, step in each_step():
            seen = {key: value[step].double() for key, value in at_prompt[prompt].items() if key != "logits"}
            before, middle, update, after = (seen[key] for key in ("before", "middle", "update", "after"))
            pairs = (after - before, before), (middle - before, before), (update, middle)
            values = torch.stack([cosine(*each, dim=-1) for each in pairs])
            np.testing.assert_allclose(chosen.delta_cosine.isel(step=at), values, rtol=1e-3, atol=1e-3)
            norms = torch.stack([each[0].norm(dim=-1) for each in pairs])
            np.testing.assert_allclose(chosen.update_norm.isel(step=at), norms, rtol=1e-3, atol=1e-3)
            theirs = teacher[prompt]["after"][step].double()
            apart = (after - theirs).norm(dim=-1) / theirs.norm(dim=-1)
            np.testing.assert_allclose(
                chosen.residual_distance_teacher.isel(step=at), apart, rtol=1e-3, atol=1e-4
            )
            alike = cosine(after, theirs, dim=-1)
            np.testing.assert_allclose(chosen.residual_cosine_teacher.isel(step=at), alike, atol=1e-4)


@families
def test_what_the_condition_would_write_is_its_models_own_output(family):
    given, found = case(family), steps(family)
    for condition in given.conditions:
        host, chosen = getattr(given.pair, condition.host), found.sel(condition=condition.name)
        real = torch.as_tensor(host.real_tokens)
        for at, prompt, step in each_step():
            logits = slow(family)[condition.name][prompt]["logits"][step].double()
            logp = logits.masked_fill(~real, -torch.inf).log_softmax(-1)
            assert logp[int(chosen.free_top1[at])] > logp.max() - 1e-3
            loss = -float(logp[given.made[prompt].ids[step]])
            np.testing.assert_allclose(chosen.nll[at], loss, **CLOSE)


@families
def test_projections_equal_autograd_on_the_hybrid(family):
    """The three axes as the study took them, by backward passes, on the update that really enters the stream."""
    given, found = case(family), steps(family)
    late = list(final_fifth(given.pair.n_layers))
    for name in PROJECTED:
        host = given.pair.it if name in ("C", "D_late") else given.pair.pt
        chosen = found.sel(condition=name, layer=late)
        for at, prompt, step in each_step():
            seen = {key: value[step] for key, value in slow(family)[name][prompt].items()}
            for column, layer in enumerate(late):
                gradients = axes_by_autograd(host, seen["after"][layer], seen["after"][-1],
                                             given.made[prompt].ids[step])  # fmt: skip
                effect = gradients @ seen["update"][layer].double()
                if layer == late[-1]:
                    assert chosen.cosine.isel(step=at, layer=column, axis=2) == 0
                    gradients, effect = gradients[:2], effect[:2]
                ours = chosen.isel(step=at, layer=column, axis=slice(len(effect)))
                size = gradients.norm(dim=-1)
                np.testing.assert_allclose(
                    ours.effect, effect, rtol=5e-3, atol=2e-3 * max(1, float(effect.abs().max()))
                )
                # A probability near 1 is rounded by 6e-8 in float32; times an update of tens of logits, some 1e-6 of effect.
                rounding = 1e-6 / size.numpy()
                length = seen["update"][layer].double().norm()
                for got, wanted, atol in (
                    (ours.projection, effect / size, 1e-2 + rounding),
                    (ours.cosine, effect / size / length, 2e-3 + rounding / length.item()),
                ):
                    assert (abs(got - wanted.numpy()) <= atol + 1e-2 * abs(wanted.numpy())).all()
    assert found.axis.values.tolist() == list(AXES)
    other = [layer for layer in found.layer.values if layer not in late]
    assert found.cosine.sel(layer=other).isnull().all()
    assert found.cosine.sel(condition=["B2", "A'_tmpl"]).isnull().all()


def axes_by_autograd(decoder, h, final, target):
    """Gradients [axis, d] at h of the teacher's logit, of minus the leading one, and of KL(final ‖ layer), float64."""
    norm = copy.deepcopy(decoder.module.get_submodule(decoder.stack_path).norm)
    unembedding = decoder.unembedding
    norm, weight = norm.double().requires_grad_(False), unembedding.weight.double()
    leaf = h.double().clone().requires_grad_(True)
    z = norm(leaf) @ weight.T
    p_final = (norm(final.double()) @ weight.T).softmax(-1).detach()
    at = unembedding.token_ids.tolist().index(target)
    wanted = z[at], -z.max(), (p_final * (p_final.log() - z.log_softmax(-1))).sum()
    return torch.stack([torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in wanted])


@families
def test_self_graft_shifts_nothing(family):
    given = case(family)
    chosen = {"late": windows(given.pair.n_layers)["late"], "all": range(given.pair.n_layers)}
    found = measured(given, conditions=[*BASELINES, *swaps(chosen, "self")], projected=["B_all_self", "A'"])
    moved = graft_shifts.shifts(graft_shifts.by_prompt(found))
    assert moved.sizes["condition"] == 4
    for name, values in moved.items():
        if name == "js_teacher":  # 0 by definition for the teacher, by the sums for its double
            assert (abs(values.fillna(0.0)) < 1e-6).all()
        elif name not in PROJECTIONS:
            assert (values.fillna(0.0) == 0).all(), name
    late = moved.sel(condition="B_all_self", region="final_fifth")
    assert (late.cosine == 0).all() and (late.kl_layer_final == 0).all()


def exchanged(given):
    """The same case with the roles of PT and IT exchanged: checkpoints, renderings and translators."""
    one, two = given.pair
    roles = Pair("exchanged", None, replace(two, variant="pt"), replace(one, variant="it"))
    ids = {"raw": given.ids["chat"], "chat": given.ids["raw"]}
    return given._replace(pair=roles, ids=ids, lenses={"pt": given.lenses["it"], "it": given.lenses["pt"]})


@families
def test_roles_exchanged_give_the_same_numbers(family):
    """What B is for PT and IT, D is for IT and PT, to the bit, with a PT that teaches in the place of an IT."""
    given = case(family)
    names = {"A'": "C", "C": "A'", "B_late": "D_late", "D_late": "B_late"}
    conditions = [c for c in given.conditions if c.name in names]
    ours = measured(given, conditions=conditions)
    theirs = measured(exchanged(given), conditions=conditions, teacher="pt")
    theirs = theirs.sel(condition=[names[name] for name in ours.condition.values], basis=["host", "it", "pt"])
    for name in (*READOUTS, "delta_cosine", "residual_distance_teacher", "nll", "free_top1"):
        assert np.array_equal(ours[name].values, theirs[name].values), name


@families
def test_models_that_differ_in_their_mlps_alone_shift_oppositely(family):
    """With all MLPs moved, PT becomes IT and IT becomes PT: what the graft adds on one side it takes on the other."""
    given = case(family)
    host, donor = given.pair
    other = wrap(grafted.swapped(host, donor, range(host.n_layers)), donor.tokenizer, variant="it")
    twin = Pair("twin", None, host, other)
    alike = given._replace(pair=twin, ids={"raw": given.ids["raw"], "chat": given.ids["raw"]})
    whole = {"all": range(host.n_layers)}
    found = measured(alike, conditions=[*BASELINES, *swaps(whole)], lenses=None)
    shift = graft_shifts.shifts(graft_shifts.by_prompt(found)).sel(region="final_fifth", basis="host")
    for name in ("kl_layer_final", "kl_final_layer", "entropy", "nll", "delta_cosine", "commitment"):
        b, d = shift[name].sel(condition="B_all"), shift[name].sel(condition="D_all")
        np.testing.assert_allclose(b, -d, rtol=1e-3, atol=1e-4, err_msg=name)
        assert float(abs(b).max()) > 0
    through = shift.js_teacher.sel(condition="B_all")  # the hybrid is the teacher
    before = graft_shifts.by_prompt(found).js_teacher.sel(condition="A'", basis="host")
    assert (through < 0).any() and float(before.max()) > 0


@families
def test_first_step_is_the_hosts_own_first_prediction(family):
    given, found = case(family), steps(family)
    first = found.isel(step=np.flatnonzero(found.token == 0))
    for condition in given.conditions:
        host = getattr(given.pair, condition.host)
        edits = condition_edits(condition, given.pair)
        free = edited(host, edits) if edits else host
        made = generation.generate(free, given.ids[condition.prompt_format], max_new_tokens=1)
        assert first.free_top1.sel(condition=condition.name).values.tolist() == [text.ids[0] for text in made]
    assert first.free_top1.sel(condition="C").values.tolist() == [text.ids[0] for text in given.made]


@families
def test_the_teacher_would_write_its_own_reply(family):
    found = graft_shifts.by_prompt(steps(family))
    assert (found.agreement_teacher.sel(condition="C") == 1).all()
    assert found.first_divergence_teacher.sel(condition="C").values.tolist() == list(LENGTHS)
    assert (found.js_teacher.sel(condition="C") == 0).all()


@families
def test_padded_batch_equals_single_rows(family):
    given = case(family)
    conditions = [c for c in given.conditions if c.name in ("C", "A'", "B_late")]
    together, single = (measured(given, conditions=conditions, batch_size=size) for size in (3, 1))
    for name in ("kl_layer_final", "kl_layer_teacher", "entropy", "nll", "delta_cosine"):
        np.testing.assert_allclose(together[name], single[name], err_msg=name, rtol=2e-3, atol=5e-4)


def test_teacher_that_is_the_pretrained_model():
    given = case("llama")
    made = generation.generate(given.pair.pt, given.ids["raw"], max_new_tokens=4)
    taught = given._replace(made=made)
    found = measured(taught, teacher="pt")
    assert found.sizes["step"] == sum(len(text.ids) for text in made)
    assert (found.free_top1.sel(condition="A'") == found.token_id).all()
    assert not (found.free_top1.sel(condition="C") == found.token_id).all()
    assert (found.js_teacher.sel(condition="A'") == 0).all() and (
        found.js_teacher.sel(condition="C") > 0
    ).any()
    assert (found.residual_distance_teacher.sel(condition="A'") == 0).all()
    # Only comparisons with the teacher depend on whose layers those are.
    plain = measured(taught)
    for name in ("kl_layer_final", "kl_layer_baseline_final", "entropy", "nll", "target_rank"):
        assert np.array_equal(found[name], plain[name])


def test_fewer_layers_bases_and_lenses_are_parts_of_the_whole():
    given, whole = case("gemma"), steps("gemma")
    part = measured(given, layers=[9, 3], shared=(), lenses=None, projected=["C"])
    assert part.layer.values.tolist() == [3, 9, 11] and part.basis.values.tolist() == ["host"]
    chosen = whole.sel(layer=[3, 9, 11], basis=["host"], lens=["raw"])
    for name in READOUTS:
        np.testing.assert_allclose(part[name], chosen[name], rtol=1e-3, atol=1e-4)
    assert part.cosine.sel(condition="C").notnull().any("axis").any("step").values.tolist() == [
        False,
        True,
        True,
    ]
    np.testing.assert_allclose(part.depth, [4 / 12, 10 / 12, 1.0])


def test_steps_carry_their_tokens_prompts_and_conditions():
    given, found = case("llama"), steps("llama")
    assert found.token_id.values.tolist() == [i for text in given.made for i in text.ids]
    assert found.prompt_index.values.tolist() == np.repeat(range(3), LENGTHS).tolist()
    about = found.condition.sel(condition="B2")
    assert (str(about.host.values), str(about.prompt_format.values), str(about.baseline.values)) == (
        "pt",
        "chat",
        "A'_tmpl",
    )
    assert (int(about.first_layer), int(about.last_layer)) == (7, 11)


def test_one_pass_gives_prompts_and_steps():
    given = case("llama")
    options = {"lenses": given.lenses, "projected": PROJECTED, "batch_size": 2}
    found, kept = matched_prefix.with_steps(
        given.pair, given.chosen, given.made, given.conditions, stepwise=PROJECTED, **options
    )
    alone = matched_prefix.matched_prefix(given.pair, given.chosen, given.made, given.conditions, **options)
    xr.testing.assert_identical(found, alone)
    assert found.prompt.values.tolist() == [prompt.id for prompt in given.chosen]
    assert found.attrs == {"teacher": "it", "n_layers": 12}
    whole = steps("llama").sel(condition=list(PROJECTED), basis=["host"])
    for name in matched_prefix.STEPWISE:
        np.testing.assert_allclose(kept[name], whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert (
        "js_teacher" not in kept and kept.prompt_index.values.tolist() == whole.prompt_index.values.tolist()
    )


def test_steps_come_with_their_baselines():
    given = case("llama")
    arguments = given.pair, given.chosen, given.made, given.conditions
    _, kept = matched_prefix.with_steps(*arguments, stepwise=["B2", "D_late"], layers=[11])
    assert kept.condition.values.tolist() == [
        c.name for c in given.conditions if c.name in {"C", "D_late", "A'_tmpl", "B2"}
    ]
    with pytest.raises(InterventionError, match="'B_mid' are asked for, but it is not among"):
        matched_prefix.with_steps(*arguments, stepwise=["B_mid"])


class Renamed:
    """A tokenizer with other words for some ids."""

    def __init__(self, tokenizer, words):
        self.tokenizer, self.words = tokenizer, words

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def convert_ids_to_tokens(self, ids):
        found = self.tokenizer.convert_ids_to_tokens(ids)
        return [self.words.get(index, word) for index, word in zip(ids, found)]


def test_first_id_of_two_meanings_is_named():
    tokenizer = case("llama").pair.it.tokenizer
    rows = [[40, 41], [42, 40, 43]]
    assert forced_tokens.check_same_ids(tokenizer, tokenizer, rows) is None
    other = Renamed(tokenizer, {43: "later", 42: "sooner", 99: "unused"})
    with pytest.raises(TokenizerError, match=r"id 42 is 'sooner' to the PT tokenizer and .* to IT's"):
        forced_tokens.check_same_ids(other, tokenizer, rows)


def test_tokenizers_that_differ_stop_the_pass():
    given = case("llama")
    first = given.made[0].ids[0]
    other = Renamed(given.pair.it.tokenizer, {first: "zebra"})
    pair = replace(given.pair, pt=replace(given.pair.pt, tokenizer=other))
    with pytest.raises(TokenizerError, match=f"id {first} is 'zebra'"):
        measured(given._replace(pair=pair))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[1:], "'C' is missing"),
        (lambda c: [each for each in c if each.name != "A'_tmpl"], '"A\'_tmpl" is missing'),
        (lambda c: [*c, c[2]], "a name occurs twice"),
    ],
)
def test_conditions_that_do_not_stand_together(change, message):
    given = case("llama")
    with pytest.raises(InterventionError, match=message):
        measured(given, conditions=change(given.conditions))


def test_a_lens_that_is_not_the_models_stops_the_pass():
    given = case("llama")
    stack = given.pair.pt.unembedding
    wrong = replace(given.pair.pt)
    wrong.__dict__["unembedding"] = replace(stack, weight=stack.weight * 1.1)
    broken = given._replace(pair=replace(given.pair, pt=wrong))
    with pytest.raises(LensError):
        measured(broken)


def test_batches_match_step_for_step():
    prompts = {"raw": [[1, 2], [1, 2, 3, 4]], "chat": [[5, 6, 7], [5]]}
    replies = [generation.Continuation((8, 9), False), generation.Continuation((7,), True)]
    order = forced_tokens.matched_order(prompts, replies)
    batch = forced_tokens.matched_batch(order, prompts, replies, 0)
    raw, chat = batch["raw"], batch["chat"]
    assert raw.rows.tolist() == chat.rows.tolist() == [0, 1]
    assert raw.input_ids.tolist() == [[1, 2, 8, 0], [1, 2, 3, 4]]
    assert chat.input_ids.tolist() == [[5, 6, 7, 8], [5, 0, 0, 0]]
    assert chat.attention_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert raw.steps == (range(1, 3), range(3, 4)) and chat.steps == (range(2, 4), range(0, 1))
    assert raw.targets.tolist() == chat.targets.tolist() == [8, 9, 7]


def test_replies_must_fit_into_the_context_of_both_models(monkeypatch):
    """PT hosts read the chat turns too, and may have the smaller context."""
    given = case("llama")
    longest = max(len(row) for row in given.ids["chat"]) + max(LENGTHS)
    monkeypatch.setattr(given.pair.pt.module.config, "max_position_embeddings", longest - 1)
    with pytest.raises(
        ParameterError, match=r"tokens for llama_pocket \(PT\), which with 4 new ones exceed its context"
    ):
        matched_prefix.matched_prefix(given.pair, given.chosen, given.made, given.conditions)
