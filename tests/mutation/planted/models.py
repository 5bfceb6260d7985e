"""Faults in edits by row, in the decoding of many rows, in folding, and in what is exported."""

# ruff: noqa: E501
from tests.mutation.mutant import Mutant as M

ROWS, DECODING, FOLDING, EXPORT = (
    "models/row_edits.py",
    "models/decoding.py",
    "models/folding.py",
    "run/export.py",
)

MUTANTS = [
    M(ROWS, "(edit.alpha[:, None, None] - 1) * length", "edit.alpha[:, None, None] * length", "a dose of 1 doubles"),
    M(ROWS, "length = length.abs() * torch.sign(wide @ write[..., None])", "length = wide @ write[..., None]",
      "the control moves by its own projection, not by d's"),
    M(ROWS, "length.abs() * torch.sign(wide @ write[..., None])", "length.abs()", "the control has one sign"),
    M(ROWS, "wide = h.float()", "wide = h", "half precision sums in half precision"),
    M(ROWS, "self.current = {i: edit.of(left) for i, edit in self.current.items()}", "pass", "edits stay when rows leave"),
    M(ROWS, "(1, *own), (n_rows, *own)", "(1, *own), tuple(value.shape)", "any number of rows will do"),
    M(ROWS, "        for handle in handles:\n            handle.remove()", "        pass", "hooks stay"),
    M(ROWS, 'target = block.mlp if edit.place == "mlp_output" else block', "target = block.mlp", "a trace edits the stream at the MLP"),
    M(DECODING, "cache.batch_select_indices(left)", "pass", "rows leave, and their cache stays", at=0),
    M(DECODING, "layer.batch_select_indices(index)", "pass", "the cache below the first edit keeps one row a prompt"),
    M(DECODING, "first = min((edit.layer for edit in edits), default=0)", "first = max((edit.layer for edit in edits), default=0)",
      "rows of a prompt are one below the last edit"),
    M(DECODING, "torch.cat([ids, mask], 1)", "torch.cat([ids, ids], 1)", "the mask of equal rows is their ids"),
    M(DECODING, "live = state.rows.to(device)", "live = torch.arange(len(token), device=device)", "tokens go to the first rows when rows leave"),
    M(DECODING, "masked_fill(unreal, -torch.inf)", "masked_fill(unreal, 0.0)", "unreal tokens may be chosen"),
    M(DECODING, "(~done[:, None]).cpu()", "torch.ones_like(done[:, None]).cpu()", "finished rows are counted on"),
    M(DECODING, "here = [edit.of(index) for edit in edits]", "here = [edit.of(index.sort()[0]) for edit in edits]", "edits go by place in the batch"),
    M(FOLDING, "(alpha - 1) * d[:, None] * (d @ wide)", "alpha * d[:, None] * (d @ wide)", "a fold of 1 doubles"),
    M(FOLDING, "or kind == \"bias\"", "or kind == \"b\"", "biases are left out"),
    M(FOLDING, "parameter.ndim == 3 and", "parameter.ndim == 4 and", "fused experts are left out"),
    M(FOLDING, "        _write(kept)\n", "        _write(kept[:1])\n", "only the first weight comes back"),
    M(FOLDING, "share *= 1 + abs(alpha)", "share *= 1e9", "a fold that is incomplete passes"),
    M(FOLDING, "return direction / length", "return direction", "directions count with their length"),
    M(FOLDING, "(alpha - 1) * d[:, None])", "alpha * d[:, None])", "B is α d"),
    M(EXPORT, '"lora_alpha": 1', '"lora_alpha": 2', "the adapter counts twice"),
    M(EXPORT, '"target_modules": paths', '"target_modules": ["down_proj"]', "the adapter names modules of all layers"),
    M(EXPORT, 'loading.load_decoder(record, "it")', 'loading.load_decoder(record, "pt")', "A is of PT's weights"),
]  # fmt: skip
