"""Private copies of a pocket pair, changed so as to be like pairs that people bring."""

import json
import shutil

from safetensors.torch import load_file, save_file

from nbhelpers.core import params

PLAIN = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def copy(folder, family="llama", **changes):
    """Return the parameters of a copy of a pocket pair in folder/pt and folder/it; changes: of its `ModelParams`."""
    pocket = params.model_params(f"{family}_pocket")
    for variant in params.VARIANTS:
        shutil.copytree(params.ROOT / f"pocket/checkpoints/{family}" / variant, folder / variant)
    paths = {variant: params.Checkpoint(path=str(folder / variant)) for variant in params.VARIANTS}
    return pocket.model_copy(update={"key": f"changed_{family}"} | paths | changes)


def edit(path, **values):
    """Change keys of a JSON file; the value None removes one."""
    data = json.loads(path.read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in data.items() if value is not None}
    path.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")


def weights(folder, change):
    """Change the tensors {name: tensor} of a folder's model.safetensors in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def template(folder, text):
    """Give a checkpoint another chat template."""
    (folder / "chat_template.jinja").write_text(text)
