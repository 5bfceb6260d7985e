"""SmolLM2-135M-Instruct as a pair of checkpoints; `python -m tests.realmodel.convert FILE.gguf FOLDER` writes FOLDER/{it,pt}.

IT is the public model, read from GGUF (4 bits a weight) into float32. Its real PT is not in the package, so PT is a
stand-in: the same weights with noise, whose tokenizer ends a text as the real base model's does and has no chat template.
Differences of such a pair say nothing about instruction tuning. Needs the package `gguf`.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

NOISE = 0.08  # length of the noise, as a share of the tensor's own
END_OF_TEXT = "<|endoftext|>"  # with which the real base model ends a text; IT ends its turn with <|im_end|>


def convert(gguf: Path, folder: Path) -> None:
    """Write the folders it and pt of checkpoints from a GGUF file."""
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model that was read from GGUF refuses to be saved; a fresh one takes its weights.
    config = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder / "it")
    tokenizer.save_pretrained(folder / "it")

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            scale = NOISE * weight.square().mean().sqrt()
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    for settings in (model.config, model.generation_config):
        settings.bos_token_id = settings.eos_token_id = settings.pad_token_id = end
    model.save_pretrained(folder / "pt")
    tokenizer.chat_template = None
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.pad_token = END_OF_TEXT
    tokenizer.save_pretrained(folder / "pt")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
