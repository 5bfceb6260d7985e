"""What each experiment's dataset must hold: its variables, and their dimensions in any order.

`store.save` and `store.load` refuse a dataset that lacks one. A new experiment adds its variables here.
"""

_LENS = ("variant", "lens", "prompt", "layer")
_LAYERS = ("variant", "prompt", "layer")
_UPDATES = ("variant", "component", "prompt", "layer")
_GAP, _DELAY = ("lens", "direction"), ("lens", "rule")
_STEPS = ("variant", "lens", "layer", "step")
_MATCHED = ("history", "variant", "basis", "lens", "prompt", "layer")
_CLOUD, _CLOUDS = ("template", "variant", "layer"), ("template", "variant", "cloud_prompt", "layer")
_BOTH = ("variant", "history", "lens", "prompt", "layer")
_SWEEP = ("side", "sweep", "lens", "prompt")
REQUIRED = {
    "exp00": {
        **dict.fromkeys(
            ["kl_final_layer", "kl_layer_final", "kl_adjacent", "entropy", "top1", "top1_probability",
             "target_log_probability", "target_rank", "turnover", "candidates_final",
             "kl_final_layer_cross", "kl_layer_final_cross"], _STEPS),
        **dict.fromkeys(["delta_cosine", "update_norm"], ("variant", "component", "layer", "step")),
        **dict.fromkeys(["residual_norm", "cosine_to_final"], ("variant", "layer", "step")),
        **dict.fromkeys(["token_id", "token_class"], ("step",)),
        **dict.fromkeys(["n_tokens", "stopped", "text"], ("variant", "prompt")),
        **dict.fromkeys(["category", "message"], ("prompt",)),
        "neuron_mass": ("variant", "layer", "neuron"),
        **dict.fromkeys(["neighbour_distance", "neighbour_index"],
                        ("template", "variant", "layer", "cloud_prompt", "neighbour")),
        "spectrum": ("template", "variant", "layer", "axis"),
        "adjacent_cka": _CLOUD,
        **dict.fromkeys(["adjacent_cosine", "visible_keys"], _CLOUDS),
        **dict.fromkeys(["attention_entropy", "attention_entropy_no_sink", "attention_sink"], (*_CLOUDS, "head")),
        "pair_cka": ("template", "layer"),
        "global_layer": ("layer",),
        **dict.fromkeys(["weight_rms", "weight_relative"], ("group", "layer")),
    },
    "exp01": {
        "support": _LAYERS,
        "neuron_n90": ("variant", "selection", "prompt", "layer"),
        **dict.fromkeys(["update_n90", "update_n50", "update_target_contribution"],
                        ("variant", "component", "layer", "prompt")),
        **dict.fromkeys(["fit", "fit_low", "fit_high"], ("variant", "selection", "quantity", "statistic")),
        **dict.fromkeys(["fit_shift", "fit_shift_low", "fit_shift_high"], ("selection", "quantity", "statistic")),
        **dict.fromkeys(["sample_n90", "sample_attribution", "sample_layer"], ("variant", "sample")),
        "target_rank": ("variant", "prompt"),
        **dict.fromkeys(["group", "target"], ("prompt",)),
    },
    "exp02": {
        **dict.fromkeys(["delta_cosine", "update_norm"], ("condition", "component", "prompt", "layer")),
        **dict.fromkeys(["entropy", "kl_final_layer", "residual_norm"], ("condition", "prompt", "layer")),
        "delta_cosine_by_part": ("condition", "part", "prompt", "layer"),
        "f_statistic": ("condition", "measure", "layer"),
        "p_layers": ("condition", "measure"),
        "template_shift": ("prompt", "layer"),
        **dict.fromkeys(["category", "form"], ("prompt",)),
        **dict.fromkeys(["n_tokens", "text"], ("condition", "prompt")),
        **dict.fromkeys(["weight_rms", "weight_relative"], ("group", "layer")),
    },
    "exp03": {
        **dict.fromkeys(["kl_final_layer", "kl_adjacent", "turnover", "candidates_final", "target_probability",
                         "target_log_rank"], _BOTH),
        "delta_cosine": ("variant", "history", "prompt", "layer"),
        **dict.fromkeys(["phase_kl_adjacent", "phase_of_mind"], ("variant", "history", "phase", "prompt", "lens")),
        **dict.fromkeys(["late_mind_change", "late_flips", "kl_adjacent_at_change"],
                        ("variant", "history", "token_class", "prompt", "lens")),
        "class_share": ("variant", "history", "token_class"),
        "commitment_by_confidence": ("variant", "history", "stratum", "prompt", "rule", "lens"),
        "kl_by_agreement": ("variant", "history", "agreement_of", "prompt", "lens", "layer"),
        "agreement": ("variant", "history"),
        **dict.fromkeys(["gini", "n50", "n90"], ("variant", "layer")),
        "neuron_overlap": ("layer", "k"),
    },
    "exp04": {
        **dict.fromkeys(["dimension", "dimension_low", "dimension_high"], ("estimator", *_CLOUD)),
        **dict.fromkeys(["participation_ratio", "effective_rank", "first_share", "adjacent_cka"], _CLOUD),
        **dict.fromkeys(["attention_entropy", "attention_normalised", "attention_entropy_no_sink", "attention_sink",
                         "adjacent_change"], _CLOUDS),
        "pair_cka": ("template", "layer"),
        **dict.fromkeys(["lowest_layer", "sharpness"], ("template", "variant")),
        **dict.fromkeys(["statistic", "p_permuted", "p_window", "global_statistic", "p_global"], ("profile",)),
    },
    "exp07_0g": {
        **dict.fromkeys(["kl_final_layer", "kl_layer_final", "top1_agreement"], ("variant", "lens", "text", "layer")),
        "kl_transfer": ("text", "layer"),
        **dict.fromkeys(["last_layer_kl", "gate"], ("variant",)),
        "train_loss": ("variant", "step", "layer"),
        "validation_loss": ("variant", "check", "layer"),
        "chosen_step": ("variant", "layer"),
    },
    "exp07_0j": {
        **dict.fromkeys(["onset", "onset_low", "onset_high", "found_resampled", "found_exchanged"],
                        ("component", "rule")),
        "meets": ("component", "rule", "layer"),
        "delta_cosine_shift": ("component", "prompt", "layer"),
    },
    "exp09": {
        **dict.fromkeys(
            ["kl_final_layer", "kl_layer_final", "entropy", "kl_adjacent", "top1_agreement", "top1_probability",
             "kl_final_layer_first", "kl_layer_final_first", "entropy_first"], _LENS),
        **dict.fromkeys(["delta_cosine", "update_norm"], _UPDATES),
        **dict.fromkeys(["residual_norm", "cosine_to_final"], _LAYERS),
        "commitment": ("variant", "lens", "rule", "prompt"),
        "commitment_count": ("variant", "lens", "rule", "layer"),
        **dict.fromkeys(["n_tokens", "stopped"], ("variant", "prompt")),
        "category": ("prompt",),
        **dict.fromkeys([f"convergence_gap{end}" for end in ("", "_low", "_high", "_tokens")], _GAP),
        **dict.fromkeys([f"commitment_delay{end}" for end in ("", "_low", "_high")], _DELAY),
        **dict.fromkeys(["kl_final_layer_matched", "kl_layer_final_matched"], _MATCHED),
        "kl_by_confidence": ("variant", "stratum", "prompt", "lens", "layer"),
        "kl_by_confidence_matched": ("history", "variant", "stratum", "prompt", "lens", "layer"),
        "steps_by_confidence": ("variant", "stratum"),
        "delta_cosine_by_step": ("variant", "token", "layer"),
        **dict.fromkeys(["weight_rms", "weight_relative"], ("group", "layer")),
        "dimension": ("estimator", *_CLOUD),
        "attention_normalised": _CLOUDS,
    },
    "exp11": {
        **dict.fromkeys(
            ["kl_layer_final", "kl_final_layer", "kl_layer_baseline_final", "kl_layer_teacher_final",
             "kl_layer_teacher", "kl_teacher_layer", "js_teacher", "entropy", "target_log_probability",
             "target_log_rank", "top1_final"], ("teacher", "prompt", "lens", "basis", "condition", "layer")),
        **dict.fromkeys(["delta_cosine", "update_norm"], ("teacher", "prompt", "component", "condition", "layer")),
        **dict.fromkeys(["residual_cosine_teacher", "residual_distance_teacher"],
                        ("teacher", "prompt", "condition", "layer")),
        **dict.fromkeys(["nll", "agreement_teacher", "agreement_baseline", "first_divergence_teacher",
                         "first_divergence_baseline"], ("teacher", "prompt", "condition")),
        "commitment": ("teacher", "prompt", "rule", "lens", "basis", "condition"),
        "n_tokens": ("teacher", "prompt"),
        **dict.fromkeys([f"sweep_kl_{name}" for name in ("layer_final", "final_layer", "layer_teacher")], _SWEEP),
        "sweep_js_teacher": _SWEEP,
        "sweep_nll": ("side", "sweep", "prompt"),
        **dict.fromkeys(["sweep_first", "sweep_width"], ("sweep",)),
        **dict.fromkeys(["category", "message"], ("prompt",)),
    },
    "exp11_steps": {
        **dict.fromkeys(["top1", "target_rank", "target_log_probability", "kl_layer_final", "entropy",
                         "candidate_overlap"], ("lens", "basis", "condition", "layer", "step")),
        **dict.fromkeys(["delta_cosine", "update_norm"], ("component", "condition", "layer", "step")),
        **dict.fromkeys(["effect", "projection", "cosine"], ("axis", "condition", "layer", "step")),
        **dict.fromkeys(["token_id", "token_class"], ("step",)),
    },
    "exp13": {
        "replaced": ("condition", "lens", "displaced", "supported", "prompt"),
        **dict.fromkeys(["share", "share_low", "share_high"], ("condition", "lens", "role", "token_class")),
        "n_steps": ("part", "token_class", "prompt"),
        **dict.fromkeys(["rank_gain", "log_rank_gain", "log_probability_gain", "rank_win", "rank_loss"],
                        ("part", "token_class", "condition", "lens", "prompt")),
        **dict.fromkeys(["late_win", "never"], ("part", "token_class", "reader", "lens", "prompt")),
        **dict.fromkeys(["effect", "projection", "cosine"], ("axis", "measured", "layer", "prompt")),
        **dict.fromkeys(["r", "r_low", "r_high"], ("scale", "kind", "given", "feature", "measured", "lens")),
        "candidate_overlap": ("measured", "lens", "prompt"),
        "cells_per_step": (),
    },
    "exp14": {
        "shift": ("readout", "region", "side", "window", "lens", "basis", "prompt"),
        **dict.fromkeys(["mean", "low", "high", "p", "p_holm", "strongest"],
                        ("readout", "region", "side", "window", "lens", "basis")),
    },
}  # fmt: skip
