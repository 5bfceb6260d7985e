"""A pair on two devices, and a model spread over five: the same values as on one, by every way a graft takes.

No such device is at hand (`tests/devices.py` stands in, `test_gpu` has real ones): an operation on tensors of two fails.
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.core.params import SHOWN, ParameterError, model_params
from nbhelpers.experiments.exp00_observations import measure as observations
from nbhelpers.experiments.exp05_ablation_map import measure as ablations
from nbhelpers.experiments.exp10_contrastive_patching.matched import matched, matched_rows
from nbhelpers.measures import forced_tokens, logit_attribution, matched_prefix, steering, tuned_lens
from nbhelpers.measures.arms import GRAFTS, Arm
from nbhelpers.measures.prompt_end import observe_clouds
from nbhelpers.models import conditions, edits, forward, generation, placement, prompts
from tests import devices, shapes
from tests.devices import FIRST, HOST, SECOND

PLACES = {"two GPUs": (FIRST, SECOND), "IT on the host": (FIRST, HOST)}
apart = pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
NEW = 4


@pytest.fixture(scope="module")
def pair():
    return shapes.pair("gemma2")  # four layers, norms on both sides of an MLP, a soft cap


@pytest.fixture(scope="module")
def texts(pair):
    """Prompts, their ids by rendering, and the replies of both models."""
    chosen = prompts.load_prompts("pocket/prompts.jsonl", 2, seed=3)
    ids = {"raw": prompts.render(pair.pt, chosen), "chat": prompts.render(pair.it, chosen)}
    replies = [generation.generate(d, rows, max_new_tokens=NEW) for d, rows in zip(pair, ids.values())]
    return chosen, ids, dict(zip(("pt", "it"), replies))


@contextmanager
def on(pair, pt, it):
    """The pair with its models on two devices, each of them one device or five; where it was afterwards."""
    with devices.two_devices():
        try:
            for decoder, place in zip(pair, (pt, it)):
                (devices.spread if isinstance(place, tuple) else devices.put_decoder)(decoder, place)
            yield replace(pair, pt=replace(pair.pt), it=replace(pair.it))  # nothing that the old ones keep
        finally:
            for decoder in pair:
                devices.gather(decoder)


def chosen_conditions(n_layers):
    return [*conditions.control_conditions(n_layers), conditions.TEMPLATE]


def close(found, wanted, **options):
    """Fail unless two datasets hold the same numbers."""
    assert set(found.data_vars) == set(wanted.data_vars)
    for name, values in wanted.data_vars.items():
        if values.dtype.kind in "fi":
            np.testing.assert_allclose(
                found[name], values, err_msg=name, **({"rtol": 2e-3, "atol": 2e-4} | options)
            )


def forced(pair, texts):
    ids, made = texts[1], texts[2]["it"]
    batch = forced_tokens.matched_batch(range(len(made)), ids, made, pair.pt.pad_id)
    streams = forced_tokens.streams(pair, batch, chosen_conditions(pair.n_layers))
    return {condition.name: stream.residual[-1].cpu() for condition, stream in streams}


@apart
def test_a_graft_into_a_model_on_another_device_gives_the_same_stream(pair, texts, places):
    """Of MLPs, of blocks, of the host's own, permuted and scrambled."""
    wanted = forced(pair, texts)
    with on(pair, *places) as there:
        for name, values in forced(there, texts).items():
            torch.testing.assert_close(values, wanted[name], rtol=1e-3, atol=1e-3, msg=name)


def written(pair, texts):
    """What hosts write under every kind of graft, decoded together, and under one that is made in each trace."""
    late = tuple(depths.windows(pair.n_layers)["late"])
    arms = [
        Arm(f"{host} {change}", host=host, change=change, layers=late) for host in ("pt", "it") for change in GRAFTS
    ]  # fmt: skip
    arms = [*arms, Arm("pt", host="pt"), Arm("it")]
    chosen, ids, _ = texts
    made = steering.written(pair, arms, chosen, {}, max_new_tokens=NEW)
    changed = edits.edited(pair.pt, edits.graft(pair.it, late, scope="block"))
    return made["ids"].values.tolist(), generation.generate(changed, ids["raw"], max_new_tokens=NEW)


@pytest.mark.slow
@apart
def test_free_running_grafts_write_the_same(pair, texts, places):
    wanted = written(pair, texts)
    assert len(set(map(tuple, wanted[0]))) > 2  # grafts change what is written
    with on(pair, *places) as there:
        assert written(there, texts) == wanted


def untrained(pair):
    """Tuned lenses that translate nothing, on each model's device."""
    return {d.variant: tuned_lens.untrained(pair.n_layers, d.unembedding) for d in pair}


def prefixes(pair, texts):
    chosen, made = texts[0], texts[2]["it"]
    options = {"lenses": untrained(pair), "projected": ["B_late", "D_late"], "shared": ("pt", "it")}
    return matched_prefix.with_steps(
        pair, chosen, made, chosen_conditions(pair.n_layers), stepwise=["B_late", "D_late"], **options
    )  # fmt: skip


@pytest.mark.slow
@apart
def test_a_matched_prefix_reads_the_same_on_two_devices(pair, texts, places):
    """Both models' lenses on each other's streams, geometry of both side by side, distances to the teacher, late pushes."""
    wanted = prefixes(pair, texts)
    with on(pair, *places) as there:
        for found, of in zip(prefixes(there, texts), wanted):
            close(found, of, rtol=2e-2, atol=2e-3)


def beside(pair, texts):
    """What reads both models at once, apart from grafts: lenses of one on the other, IT − PT of states, KL(IT ‖ PT)."""
    chosen, ids, made = texts[0], texts[1], texts[2]["it"]
    rows, lenses = {"pt": ids["raw"], "it": ids["chat"]}, untrained(pair)
    observed = observations.observe_pair(pair, rows, texts[2], lenses).drop_vars(["top1", "target_rank"])
    sizes = {"per_prompt": 3, "batch_size": 2, "lens_rows": 64}
    both = matched(pair, matched_rows(pair, chosen, made), made, lenses, **sizes)
    differences = xr.Dataset({name: (("layer", "token", "d"), h) for name, h in both.difference.items()})
    gap = xr.Dataset({"gap": (("lens", "layer", "token"), both.gap)})
    return observed, differences, gap, ablations.parent(pair, chosen, made, batch_size=16)


SPREAD = (
    FIRST,
    FIRST,
    SECOND,
    SECOND,
    FIRST,
)  # the norm beside the last blocks, the head beside the embedding


@pytest.mark.slow
@pytest.mark.parametrize("places", [(FIRST, SECOND), (SPREAD, HOST)], ids=["two GPUs", "PT spread"])
def test_what_reads_both_models_at_once_reads_the_same(pair, texts, places):
    wanted = beside(pair, texts)
    with on(pair, *places) as there:
        found = beside(there, texts)
    for here, of in zip(found, wanted):
        close(here, of, rtol=2e-2, atol=2e-3)


def alone(pair, texts):
    """What one model does by itself: replies, steering by row, neurons, attention, residuals."""
    chosen, ids, made = texts[0], texts[1], texts[2]["it"]
    late = tuple(depths.windows(pair.n_layers)["late"])
    vector = {"mean": np.ones((pair.n_layers, pair.it.config.hidden_size))}
    down = Arm("down", change="rescale", layers=(1, *late), dose=0.5)
    arms = [Arm("it"), down, Arm("graft", change="graft", layers=late)]
    written = [
        generation.generate(pair.it, ids["chat"], max_new_tokens=NEW),
        steering.written(pair, arms, chosen, vector, max_new_tokens=NEW)["ids"].values.tolist(),
    ]
    states = [h.cpu() for h in next(forward.residuals(pair.it, ids["chat"]))]
    target = [reply.ids[0] for reply in made]
    named = logit_attribution.direct_attribution(pair.it, ids["chat"], target, k=5)
    clouds = observe_clouds(pair, chosen, n_neighbours=1, batch_size=2)
    return written, [
        xr.Dataset({"state": (("layer", "token", "d"), torch.stack(states))}),
        steering.forced(pair, arms, chosen, made, vector),
        named[["target_logit", "update_attribution", "attribution", "lens_entropy"]],
        clouds[["attention_entropy", "attention_sink", "spectrum"]],
    ]


@pytest.mark.slow
def test_a_model_that_is_spread_over_devices_does_the_same(pair, texts):
    wanted, streams = alone(pair, texts), forced(pair, texts)
    with on(pair, SPREAD, SPREAD) as there:
        found, streams_there = alone(there, texts), forced(there, texts)
    assert found[0] == wanted[0]
    for here, of in zip(found[1], wanted[1]):
        close(here, of, rtol=1e-2, atol=1e-3)
    for name, values in streams_there.items():
        torch.testing.assert_close(values, streams[name], rtol=1e-3, atol=1e-3)


def test_the_stand_in_refuses_tensors_of_two_devices():
    with devices.two_devices():
        here, there = torch.ones(2).to(FIRST), torch.ones(2).to(SECOND)
        for wrong in (lambda: here + there, lambda: here + torch.ones(2), lambda: torch.ones(2)[there.long()],
                      lambda: here[there.long()], lambda: torch.stack([here, there])):  # fmt: skip
            with pytest.raises(RuntimeError, match="one device"):
                wrong()
        assert (here + there.to(FIRST)).cpu().tolist() == [2, 2] and here[torch.tensor([0])].device == FIRST


def test_a_module_on_the_same_device_is_called_with_the_tensor_itself():
    seen = []
    module = torch.nn.Linear(2, 2)
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.ones(1, 2)
    assert placement.through(module, x).device == HOST and seen[0] is x
    assert placement.beside(module, HOST) is module


def placed(n_gpus, monkeypatch, **changes):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    params = model_params("llama31_8b").model_copy(update=changes)
    return [placement.device_map(params, variant) for variant in ("pt", "it")]


def test_a_pair_lies_where_its_parameters_say(monkeypatch):
    assert placed(0, monkeypatch) == ["auto", "auto"]
    assert placed(2, monkeypatch, placement="apart") == [{"": 0}, {"": 1}]
    assert placed(1, monkeypatch, placement="it_on_host") == [{"": 0}, {"": "cpu"}]
    assert placed(0, monkeypatch, placement="apart", device_map="meta") == ["meta", "meta"]


def test_too_few_gpus_are_an_error_that_says_what_to_change(monkeypatch):
    with pytest.raises(
        ParameterError, match=r"^llama31_8b: `placement: apart` needs 2 GPUs, and this process sees 1: set"
    ):
        placed(1, monkeypatch, placement="apart")


def test_where_a_pair_lies_is_no_part_of_what_it_measures():
    assert "placement" in SHOWN  # what `Run.hash` leaves out
