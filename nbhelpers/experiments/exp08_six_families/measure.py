"""What exp08 measures of a pair with forced replies: removals of subspaces, commitment by dose, dimension by dose.

IT's own unedited replies to prompts on which no direction was collected are forced through every condition, so that only
the dose differs between conditions, and no token follows the end of a reply.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.core.params import Run
from nbhelpers.experiments.exp08_six_families import clouds, doses, geometry
from nbhelpers.experiments.exp08_six_families.experiment import Params
from nbhelpers.measures import commitment, directions, lens, replies, steering
from nbhelpers.measures.arms import Arm, SteeringError
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.forward import Stream, forward, read_batches
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, choose, read_as
from nbhelpers.models.row_edits import RowEdit, as_edits

THRESHOLD = 0.1  # nats; the study's, for commitment by KL
RULES = ("top1_strict", f"kl_stays_{THRESHOLD}")
ENDPOINTS = (
    "own",
    "unedited",
)  # which final prediction a layer must agree with: the condition's own, or unedited IT's
CLOUD_DOSES = (1.0, 0.0, -1.0)
ESTIMATORS = ("two_nn", "participation")


def held_out(known: Sequence[tuple[Prompt, dict]], collected: xr.Dataset, options: Params) -> list[Prompt]:
    """Return up to n_prompts prompts on which no direction was collected, balanced over categories.

    known: from `prompts.read_pairs`; collected: the artifact of directions. ParameterError if none is left.
    """
    left = replies.held_out(known, lambda record: "any", {"any": len(known)}, without=collected.prompt.values)
    return choose([prompt for prompt, _ in left], min(options.n_prompts, len(left)), options.seed)


def own_replies(pair: Pair, prompts: Sequence[Prompt], options: Params) -> list[Continuation]:
    """Return unedited IT's replies to the prompts as chat turns, stop token included."""
    written = steering.written(
        pair, [Arm("it")], prompts, {}, max_new_tokens=options.max_new_tokens, batch_size=options.batch_size
    )
    return steering.continuations(written, "it")


def directions_of(collected: xr.Dataset, options: Params) -> xr.Dataset:
    """Return `rank_one`, `permuted`, `energy_along` and `stability` of the direction, from the collection of eight cells."""
    cells = collected["mlp_mean"]
    own = directions.differences(cells).values
    draws = {"draws": options.n_draws, "confidence": options.confidence, "seed": options.seed}
    along = xr.DataArray(
        geometry.energy_along(own), dims=("calibration_prompt", "layer"),
        coords={"calibration_prompt": cells["prompt"].values},
    )  # fmt: skip
    parts = [geometry.rank_one(own, **draws), geometry.stability(cells, **draws)]
    return xr.merge(parts).assign(energy_along=along.astype(np.float32))


def joint_confidence(run: Run) -> float:
    """Return the confidence of each pair's interval that makes those of all pairs of the profile hold together."""
    return 1 - (1 - run.experiment.confidence) / len(run.profile.models)


def response(steered: xr.Dataset, run: Run) -> xr.Dataset:
    """Return the dose response from the dataset of the steering runs, as `doses.response`."""
    draws = {"n_resamples": run.experiment.n_resamples, "seed": run.experiment.seed}
    return doses.response(steered, confidence=joint_confidence(run), **draws)


def removals(
    pair: Pair,
    prompts: Sequence[Prompt],
    forced: Sequence[Continuation],
    cells: xr.DataArray,
    options: Params,
) -> xr.Dataset:
    """Return `forced` (readout, arm, forced_prompt): the mean direction and larger subspaces removed from the late window.

    Arms: "it" and "pt", unedited; "direction", without the mean direction; "top k", without the first k uncentred
    components of the prompts' differences; "random k", without as many random ones as the largest subspace has.
    """
    own, late = directions.differences(cells).values, tuple(depths.windows(pair.n_layers)["late"])
    vectors = {"mean": own.mean(0), **geometry.subspaces(own, options.ranks)}
    most = max(vector.shape[1] for name, vector in vectors.items() if name != "mean")
    vectors[f"random {most}"] = geometry.random_subspace(*own.shape[1:2], most, own.shape[2], options.seed)
    arms = [Arm("it"), Arm("pt", host="pt")]
    for name in vectors:
        called = "direction" if name == "mean" else name
        arms.append(Arm(called, change="rescale", layers=late, vector=name, dose=0.0))
    read = steering.forced(pair, arms, prompts, forced, vectors, batch_size=options.batch_size)
    values = read[list(steering.READ)].to_array("readout").astype(np.float32)
    return values.rename(prompt="forced_prompt").to_dataset(name="forced")


def late_rescale(n_layers: int, direction: np.ndarray, dose: float) -> list[RowEdit]:
    """Return the edits that rescale the MLP outputs of the late window along the direction [layer, d], in every row."""
    alpha, unit = torch.tensor([dose]), torch.as_tensor(directions.unit(direction)).float()
    return [
        RowEdit(layer, alpha=alpha, direction=unit[layer][None]) for layer in depths.windows(n_layers)["late"]
    ]


def committed(stream: Stream, plain: Stream, decoder: Decoder, rows: int) -> dict[str, np.ndarray]:
    """Return each token's layer of commitment to both end points, {endpoint: [rule, token]}, through the raw lens.

    plain: the unedited stream of the same batch. To commit to the unedited prediction is to agree with it from a layer on;
    the number of layers stands for "never".
    """
    found = {}
    for endpoint, ends in (("own", ()), ("unedited", (plain.residual[-1],))):
        layers = [*stream.residual, *ends]
        read = lens.lens_metrics(layers, decoder.unembedding, metrics=("kl_layer_final", "top1"), rows=rows)
        top1, kl = (read[name].T.cpu().numpy() for name in ("top1", "kl_layer_final"))
        found[endpoint] = np.stack([commitment.top1_strict(top1), commitment.kl_stays(kl, THRESHOLD)])
    return found


def check_dose(stream: Stream, plain: Stream, dose: float) -> None:
    """Raise SteeringError if dose 1 changes the last residual, or another dose does not."""
    same = bool(torch.equal(stream.residual[-1], plain.residual[-1]))
    if same != (dose == 1.0):
        does = "nothing" if same else "something"
        raise SteeringError(
            f"Dose {dose:g} of the direction changes {does}; dose 1 alone must change nothing."
        )


def points(stream: Stream, batch, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals at the middle of each part of each reply, [layer, point, d], and each point's row."""
    row, step = batch.row_of_step, batch.step_of_step
    count = np.bincount(row)
    at = [i for i in range(len(row)) if step[i] in clouds.middle_steps(count[row[i]], bins)]
    return np.stack([h[at].float().cpu().numpy() for h in stream.residual]), row[at]


def under_doses(
    pair: Pair,
    prompts: Sequence[Prompt],
    forced: Sequence[Continuation],
    direction: np.ndarray,
    options: Params,
) -> tuple[xr.Dataset, dict[float, np.ndarray], np.ndarray]:
    """Return commitment by dose, residuals by dose {dose: [layer, point, d]} for the clouds, and each point's prompt.

    The dataset has `commitment` (rule, endpoint, forced_dose, forced_prompt), means over the tokens of IT's reply, and
    `commitment_pt` (rule, forced_prompt), PT's own on the same tokens after its raw prompt.
    """
    decoder, onset = pair.it, depths.windows(pair.n_layers)["late"].start
    rows, n = read_as(decoder, prompts, "chat"), len(prompts)
    found = np.full((len(RULES), len(ENDPOINTS), len(options.doses), n), np.nan)

    def read(batch):  # what a batch that fails has written, smaller ones write again
        plain, states = forward(decoder, batch, keep=(onset,)), {}
        lens.check_identity(plain.last_residual, plain.last_logits, decoder.unembedding)
        for d, dose in enumerate(options.doses):
            edits = as_edits(late_rescale(pair.n_layers, direction, dose))
            stream = forward(decoder, batch, edits, resume=plain)
            check_dose(stream, plain, dose)
            for e, layers in enumerate(committed(stream, plain, decoder, options.lens_rows).values()):
                found[:, e, d, batch.rows] = _by_row(layers, batch, n)
            if dose in CLOUD_DOSES:
                states[dose], row = points(stream, batch, options.bins)
        return states, row

    sizes = {"batch_size": options.batch_size, "what": "doses"}
    states, prompt = zip(*read_batches(decoder, rows, forced, read, **sizes))
    dims = ("rule", "endpoint", "forced_dose", "forced_prompt")
    coords = {"rule": list(RULES), "endpoint": list(ENDPOINTS), "forced_dose": list(options.doses)}
    result = xr.Dataset({"commitment": (dims, found)}, coords | {"forced_prompt": [p.id for p in prompts]})
    result["commitment_pt"] = (("rule", "forced_prompt"), pt_commitment(pair, prompts, forced, options))
    whole = {dose: np.concatenate([part[dose] for part in states], axis=1) for dose in CLOUD_DOSES}
    return result, whole, np.concatenate(prompt)


def pt_commitment(
    pair: Pair, prompts: Sequence[Prompt], forced: Sequence[Continuation], options: Params
) -> np.ndarray:
    """Return PT's layer of commitment to its own prediction on IT's tokens after raw prompts, [rule, prompt]."""
    decoder, n = pair.pt, len(prompts)
    rows, found = read_as(decoder, prompts, "raw"), np.full((len(RULES), n), np.nan)

    def read(batch):
        stream = forward(decoder, batch)
        lens.check_identity(stream.last_residual, stream.last_logits, decoder.unembedding)
        return batch.rows, _by_row(committed(stream, stream, decoder, options.lens_rows)["own"], batch, n)

    sizes = {"batch_size": options.batch_size, "what": "commitment"}
    for chosen, values in read_batches(decoder, rows, forced, read, **sizes):
        found[:, chosen] = values
    return found


def _by_row(layers: np.ndarray, batch, n: int) -> np.ndarray:
    """Return means over the tokens of each row of a batch, [rule, row], of layers [rule, token]."""
    row = batch.row_of_step
    return np.stack([np.bincount(row, each, n)[batch.rows] for each in layers]) / np.bincount(row)[batch.rows]


def dimensions(states: dict[float, np.ndarray], prompt: np.ndarray, options: Params) -> xr.Dataset:
    """Return `dimension` of clouds of residuals by dose and layer, and its change from dose 1 by layer and window.

    states: {dose: [layer, point, d]}, prompt [point], as `under_doses` returns them. All doses have the same draws, so that
    a change is paired. Layers below the late window are the same under every dose: their change is 0 by construction, and a
    SteeringError says if it is not.
    """
    n_prompts, n_layers = prompt.max() + 1, len(states[1.0])
    halves = geometry.halves(n_prompts, options.n_draws, options.seed)
    shape = len(ESTIMATORS), len(CLOUD_DOSES), n_layers
    value, drawn = np.empty(shape), np.empty((options.n_draws, *shape))
    late = depths.windows(n_layers)["late"]
    for d, dose in enumerate(CLOUD_DOSES):
        for layer in range(n_layers):
            if dose != 1.0 and layer < late.start:
                if not np.array_equal(states[dose][layer], states[1.0][layer]):
                    raise SteeringError(f"Dose {dose:g} in the late window changes layer {layer}, below it.")
                value[:, d, layer], drawn[:, :, d, layer] = value[:, 0, layer], drawn[:, :, 0, layer]
                continue
            found = clouds.dimensions(torch.as_tensor(states[dose][layer]), prompt, halves)
            for e, name in enumerate(ESTIMATORS):
                value[e, d, layer], drawn[:, e, d, layer] = found[name]
    windows = {name: list(layers) for name, layers in depths.windows(n_layers).items()}
    moved, spread = value - value[:, :1], drawn - drawn[:, :, :1]
    by_window = [np.stack([v[..., at].mean(-1) for at in windows.values()], -1) for v in (moved, spread)]
    ends = _ended("dimension_change", moved, spread, n_prompts, options.confidence, "layer")
    ends |= _ended("dimension_shift", *by_window, n_prompts, options.confidence, "window")
    coords = {"estimator": list(ESTIMATORS), "cloud_dose": list(CLOUD_DOSES), "window": list(windows)}
    return xr.Dataset({"dimension": (("estimator", "cloud_dose", "layer"), value), **ends}, coords)


def _ended(name: str, value, drawn, n: int, confidence: float, last: str) -> dict:
    """Return {name, name_low, name_high} of a value (estimator, cloud_dose, last) from its draws."""
    dims, ends = ("estimator", "cloud_dose", last), geometry.half_interval(value, drawn, n, confidence)
    return {n: (dims, v) for n, v in zip((name, f"{name}_low", f"{name}_high"), (value, *ends))}
