"""Pairs like those that people bring: two ends, other settings, added tokens, damaged checkpoints, odd templates."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from nbhelpers.core import params
from nbhelpers.core.params import ParameterError
from nbhelpers.measures import lens
from nbhelpers.models import generation, loading, prompts, tokens
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.forward import StreamError, replay
from nbhelpers.models.tokens import TokenizerError
from tests.changed import PLAIN, copy, edit, template, weights

POCKET = "pocket/prompts.jsonl"
LLAMA_END, LLAMA_TURN = "<|end_of_text|>", "<|eot_id|>"


def names(decoder):
    return decoder.tokenizer.convert_ids_to_tokens(list(decoder.stop_ids))


def test_each_variant_ends_at_its_own_end(tmp_path):
    """As in Llama 3.1: PT's documents end with one token, IT's turns with another."""
    shipped = copy(tmp_path)
    before = loading.load_pair(shipped)
    edit(tmp_path / "it" / "tokenizer_config.json", eos_token=LLAMA_TURN)
    pair = loading.load_pair(shipped)
    assert names(pair.pt) == [LLAMA_END]
    assert set(names(pair.it)) == {
        LLAMA_TURN,
        LLAMA_END,
    }  # its generation_config still names the document's end
    rows = prompts.render(pair.pt, prompts.load_prompts(POCKET, 24))
    made = generation.generate(pair.pt, rows, max_new_tokens=48)
    assert made == generation.generate(before.pt, rows, max_new_tokens=48)
    assert sum(reply.stopped for reply in made) == 18
    assert not any(pair.pt.tokenizer.eos_token_id in reply.ids[:-1] for reply in made)


def test_two_ends_of_generation_config_both_count(tmp_path):
    """As in Llama 3.1 Instruct, whose generation_config names the ends of text, turn and tool call."""
    pair_params = copy(tmp_path)
    tokenizer = loading.load_tokenizer(str(tmp_path / "it"))
    ids = tokenizer.convert_tokens_to_ids([LLAMA_END, LLAMA_TURN])
    edit(tmp_path / "it" / "generation_config.json", eos_token_id=ids)
    edit(tmp_path / "pt" / "generation_config.json", eos_token_id=ids[0])
    pair = loading.load_pair(pair_params)
    assert set(pair.it.stop_ids) == set(ids) and pair.pt.stop_ids == (ids[0],)


def test_ends_as_in_qwen(tmp_path):
    """Qwen 3: IT's tokenizer ends with the turn, PT's with the document; only generation_config of IT knows both."""
    pair_params = copy(tmp_path, "qwen")
    edit(tmp_path / "it" / "tokenizer_config.json", eos_token="<|im_end|>")
    pair = loading.load_pair(pair_params)
    assert names(pair.pt) == ["<|endoftext|>"]
    assert set(names(pair.it)) == {"<|im_end|>", "<|endoftext|>"}


def test_bos_is_each_variants_own(tmp_path):
    pair_params = copy(tmp_path)
    state = json.loads((tmp_path / "it" / "tokenizer.json").read_text(encoding="utf-8"))
    edit(tmp_path / "it" / "tokenizer.json", post_processor=None)
    assert state["post_processor"], "the shipped tokenizer adds BOS by this part"
    pair = loading.load_pair(pair_params)
    bos = pair.it.tokenizer.bos_token_id
    assert prompts.text_ids(pair.pt, "Hi")[0] == bos
    assert bos not in prompts.text_ids(pair.it, "Hi")
    assert prompts.text_ids(pair.pt, "Hi")[1:] == prompts.text_ids(pair.it, "Hi")


def with_added(folder, *names, rows=0):
    """IT's tokenizer with added tokens, and its embedding with `rows` more rows."""
    tokenizer = loading.load_tokenizer(str(folder / "it"))
    tokenizer.add_special_tokens({"extra_special_tokens": list(names)}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder / "it")
    if rows:
        model = AutoModelForCausalLM.from_pretrained(folder / "it")
        model.resize_token_embeddings(model.config.vocab_size + rows)
        model.save_pretrained(folder / "it")
    return tokenizer.convert_tokens_to_ids(list(names))


def test_what_it_adds_is_named_and_left_out(tmp_path):
    pair_params = copy(tmp_path)
    size = len(loading.load_pair(pair_params).it.real_tokens)
    ids = with_added(tmp_path, "<tool>", "</tool>", rows=60)
    with pytest.warns(UserWarning, match="left out of both vocabularies: '<tool>', '</tool>'"):
        pair = loading.load_pair(pair_params)
    assert pair.it.n_rows > size and not pair.it.real_tokens[ids].any()
    assert torch.equal(pair.pt.unembedding.token_ids, pair.it.unembedding.token_ids)


def test_an_added_token_that_the_chat_format_needs_is_refused_without_a_row_of_pt(tmp_path):
    pair_params = copy(tmp_path)
    (added,) = with_added(tmp_path, "<|turn|>", rows=60)
    text = (tmp_path / "it" / "chat_template.jinja").read_text().replace("<|start_header_id|>", "<|turn|>")
    template(tmp_path / "it", text)
    with pytest.raises(ParameterError, match=rf"needs '<\|turn\|>' \(id {added}\), for which PT's embedding"):
        loading.load_pair(pair_params)


def test_an_added_token_with_a_row_in_pt_is_kept_for_both(tmp_path):
    """A row that PT has but its tokenizer does not name, as where bases reserve rows for chat tokens."""
    pair_params = copy(tmp_path, "qwen")
    shipped = loading.load_pair(pair_params).pt
    ids = with_added(tmp_path, "<|turn|>")
    assert len(shipped.tokenizer) <= ids[0] < shipped.n_rows
    text = (tmp_path / "it" / "chat_template.jinja").read_text().replace("<|im_start|>", "<|turn|>")
    template(tmp_path / "it", text)
    with pytest.warns(UserWarning, match="which PT never saw"):
        pair = loading.load_pair(pair_params)
    assert pair.pt.real_tokens[ids].all() and pair.it.real_tokens[ids].all()
    assert torch.equal(pair.pt.unembedding.token_ids, pair.it.unembedding.token_ids)


def resized(folder, rows):
    """A checkpoint with another number of embedding rows."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(model.config.vocab_size + rows)
    model.save_pretrained(folder)


@pytest.mark.parametrize("variant", params.VARIANTS)
def test_tokens_for_which_one_model_has_no_row_are_real_in_neither(variant, tmp_path):
    pair_params = copy(tmp_path)
    for each in params.VARIANTS:
        tokenizer = loading.load_tokenizer(str(tmp_path / each))
        tokenizer.add_special_tokens(
            {"extra_special_tokens": ["<x1>", "<x2>"]}, replace_extra_special_tokens=False
        )
        tokenizer.save_pretrained(tmp_path / each)
    resized(tmp_path / variant, 60)
    with pytest.warns(UserWarning, match="left out of both vocabularies: '<x1>', '<x2>'"):
        pair = loading.load_pair(pair_params)
    assert torch.equal(pair.pt.unembedding.token_ids, pair.it.unembedding.token_ids)


def test_a_token_that_is_special_in_one_model_alone_is_real_in_both_or_neither(tmp_path):
    pair_params = copy(tmp_path)
    state = json.loads((tmp_path / "pt" / "tokenizer.json").read_text(encoding="utf-8"))
    for token in state["added_tokens"]:
        token["special"] = token["special"] and "reserved" not in token["content"]
    edit(tmp_path / "pt" / "tokenizer.json", added_tokens=state["added_tokens"])
    edit(tmp_path / "pt" / "tokenizer_config.json", extra_special_tokens=[])
    pair = loading.load_pair(pair_params)
    assert torch.equal(pair.pt.unembedding.token_ids, pair.it.unembedding.token_ids)


@pytest.mark.parametrize("rows", [0, 60])
def test_words_that_it_adds_are_refused(rows, tmp_path):
    """They would split the same text in two ways, or give PT ids that it never saw."""
    pair_params = copy(tmp_path, "qwen")
    tokenizer = loading.load_tokenizer(str(tmp_path / "it"))
    tokenizer.add_tokens(["market", "river"])
    tokenizer.save_pretrained(tmp_path / "it")
    if rows:
        resized(tmp_path / "it", rows)
    with pytest.raises(
        ParameterError, match=r"IT's tokenizer reads 'market' as a word \(id \d+\) that PT has no token"
    ):
        loading.load_pair(pair_params)


def test_a_pad_token_beyond_the_embedding_is_not_used(tmp_path):
    pair_params = copy(tmp_path)
    for variant in params.VARIANTS:
        tokenizer = loading.load_tokenizer(str(tmp_path / variant))
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.save_pretrained(tmp_path / variant)
    with pytest.warns(UserWarning, match=r"\[PAD\]"):
        pair = loading.load_pair(pair_params)
    whole = loading.load_pair("llama_pocket")
    for decoder, shipped in zip(pair, whole):
        assert decoder.tokenizer.pad_token_id >= decoder.n_rows
        rows = prompts.render(decoder, prompts.load_prompts(POCKET, 4))
        made = generation.generate(decoder, rows, max_new_tokens=5)
        assert made == generation.generate(shipped, rows, max_new_tokens=5)


def test_tokenizers_that_differ_name_the_first_difference(tmp_path):
    pair_params = copy(tmp_path)
    path = tmp_path / "it" / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    (a, i), (b, j) = list(vocabulary.items())[40:42]
    vocabulary[a], vocabulary[b] = j, i
    path.write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(TokenizerError, match=f"is id {min(i, j)} in PT's and id {max(i, j)} in IT's"):
        loading.load_pair(pair_params)


@pytest.mark.parametrize(
    "settings",
    [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 3}, {"num_beams": 4}, {"min_new_tokens": 30},
     {"bad_words_ids": [[5]]}, {"num_return_sequences": 2}, {"max_time": 1e-3},
     {"begin_suppress_tokens": [20]}, {"do_sample": True, "temperature": 2.0}, {"forced_bos_token_id": 7}],
)  # fmt: skip
def test_greedy_is_arg_max_whatever_generation_config_holds(settings, tmp_path):
    pair_params = copy(tmp_path, "qwen")
    plain = loading.load_pair(pair_params).it
    rows = prompts.render(plain, prompts.load_prompts(POCKET, 6))
    wanted = generation.generate(plain, rows, max_new_tokens=24)
    edit(tmp_path / "it" / "generation_config.json", **settings)
    decoder = loading.load_pair(pair_params).it
    made = generation.generate(decoder, rows, max_new_tokens=24)
    assert made == wanted
    for batch, stream in replay(decoder, rows, made):
        top = lens.lens_metrics(stream.residual[-1:], decoder.unembedding, metrics=("top1",))["top1"][0]
        assert torch.equal(top, batch.targets)


SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('A system message is required') }}{% endif %}"
)
BOS = "{{ bos_token }}"


@pytest.mark.parametrize(
    "text, sentence",
    [(PLAIN, r"lacks the <\|begin_of_text\|> that its tokenizer puts before raw text"),
     (BOS + BOS + PLAIN, "begins with 2 BOS tokens"),
     (SYSTEM + PLAIN, "cannot render a user's turn (A system message is required)"),
     (BOS + PLAIN.replace("m['content']", "m['content'] + m['content']"), "writes the user's message 2 times"),
     (BOS + PLAIN.replace("m['content']", "(m['content'] | upper)"), "changes or drops the user's message"),
     *((BOS + PLAIN.replace("m['content']", f"(m['content'] {change})"), "changes or drops the user's message 'Zq7")
       for change in ("[:30]", "| e", "| truncate(40)", "| replace('\\n', ' ')")),
     (BOS + "{{ eos_token }}", "changes or drops the user's message"),
     (BOS + "{{ messages[0]['content'] }}{{ eos_token }}", "ends the prompt with <|end_of_text|>"),
     ("{% for m in messages %}{{ m['content'] }", "cannot render a user's turn"),
     (None, "has no chat template")],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_one_sentence(text, sentence, tmp_path):
    pair_params = copy(tmp_path)
    if text is None:
        (tmp_path / "it" / "chat_template.jinja").unlink()
    else:
        template(tmp_path / "it", text)
    with pytest.raises(TokenizerError) as error:
        loading.load_pair(pair_params)
    said = str(error.value)
    assert re.search(sentence, said) or sentence in said
    assert "changed_llama (IT)" in said and "\n" not in said and said.endswith(".")


def test_a_message_that_the_template_changes_is_named(tmp_path):
    """A template may treat some messages alone, so each is looked at."""
    pair_params = copy(tmp_path)
    template(tmp_path / "it", BOS + PLAIN.replace("m['content']", "(m['content'] | replace('sea', 'lake'))"))
    pair = loading.load_pair(pair_params)
    assert prompts.chat_ids(pair.it, "The hill?")
    with pytest.raises(TokenizerError, match="changes or drops the user's message 'The sea\\?'"):
        prompts.chat_ids(pair.it, "The sea?")


@pytest.mark.parametrize(
    "option", ["truncation", "max_length", "add_generation_prompt", "return_tensors", "ids", "what"]
)
def test_chat_options_are_the_templates_own(option, tmp_path):
    pair_params = copy(tmp_path, chat={option: False})
    with pytest.raises(TokenizerError, match=f"has '{option}', which is no option of a chat template"):
        loading.load_pair(pair_params)


@pytest.mark.parametrize(
    "reply",
    [
        "{% if m['role'] == 'user' %}TURN{% endif %}",
        "{% if m['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}TURN",
    ],
)
def test_a_template_that_writes_no_replies_leaves_the_models_own_ends(reply, tmp_path):
    pair_params = copy(tmp_path)
    head, turn, tail = (
        "{% for m in messages %}",
        PLAIN[23 : PLAIN.index("{% endfor %}")],
        PLAIN[PLAIN.index("{% endfor %}") :],
    )
    template(tmp_path / "it", BOS + head + reply.replace("TURN", turn) + tail)
    edit(tmp_path / "it" / "generation_config.json", eos_token_id=2)
    assert names(loading.load_pair(pair_params).it) == [LLAMA_END]


def test_a_template_among_named_ones_is_the_default(tmp_path):
    pair_params = copy(tmp_path)
    tokenizer = loading.load_tokenizer(str(tmp_path / "it"))
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ raise_exception('no') }}"}
    tokenizer.save_pretrained(tmp_path / "it")
    assert isinstance(loading.load_tokenizer(str(tmp_path / "it")).chat_template, dict)
    pair, whole = loading.load_pair(pair_params), loading.load_pair("llama_pocket")
    assert prompts.chat_ids(pair.it, "Hi?") == prompts.chat_ids(whole.it, "Hi?")


def bos_by_hand(*ids):
    """A post-processor that puts some BOS before a text."""
    special = {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [1], "tokens": ["<|begin_of_text|>"]}}
    begin = [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}} for _ in ids]
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [*begin, text],
        "pair": [*begin, text, other],
        "special_tokens": special,
    }


@pytest.mark.parametrize("variant", params.VARIANTS)
def test_a_tokenizer_that_puts_bos_twice_is_refused(variant, tmp_path):
    pair_params = copy(tmp_path)
    edit(tmp_path / variant / "tokenizer.json", post_processor=bos_by_hand(1, 1))
    with pytest.raises(
        TokenizerError, match=rf"\({variant.upper()}\) begins a text with <\|begin_of_text\|><\|begin_of"
    ):
        loading.load_pair(pair_params)


def test_bos_that_no_name_gives_away_is_seen(tmp_path):
    pair_params = copy(tmp_path)
    for variant in params.VARIANTS:
        edit(tmp_path / variant / "tokenizer.json", post_processor=bos_by_hand(1))
        edit(tmp_path / variant / "tokenizer_config.json", bos_token=None)
    template(tmp_path / "it", PLAIN)
    with pytest.raises(
        TokenizerError, match=r"lacks the <\|begin_of_text\|> that its tokenizer puts before raw text"
    ):
        loading.load_pair(pair_params)


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_tokenizer_that_cannot_be_read_is_one_sentence(content, tmp_path):
    pair_params = copy(tmp_path)
    file = tmp_path / "it" / "tokenizer.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ParameterError) as error:
        loading.load_pair(pair_params)
    said = str(error.value)
    assert said.startswith("changed_llama: ") and "could not be loaded" in said and "\n" not in said


def test_pt_reads_chat_turns_through_its_partners_template(tmp_path):
    pair_params = copy(tmp_path)
    (tmp_path / "pt" / "chat_template.jinja").unlink()
    pair = loading.load_pair(pair_params)
    assert prompts.chat_ids(pair.pt, "Hi?") == prompts.chat_ids(pair.it, "Hi?")


def test_the_date_in_a_template_is_the_same_on_every_day(tmp_path):
    pair_params = copy(tmp_path)
    template(tmp_path / "it", BOS + "{{ strftime_now('%d %b %Y') }}" + PLAIN)
    pair = loading.load_pair(pair_params)
    assert "26 Jul 2024" in pair.it.tokenizer.decode(prompts.chat_ids(pair.it, "Hi?"))


@pytest.mark.parametrize(
    "lacking", [{"pad_token": None}, {"eos_token": None}, {"pad_token": None, "eos_token": None}]
)
def test_a_tokenizer_without_pad_or_end_is_read_by_other_facts(lacking, tmp_path):
    pair_params = copy(tmp_path)
    for variant in params.VARIANTS:
        edit(tmp_path / variant / "tokenizer_config.json", **lacking)
    pair = loading.load_pair(pair_params)
    whole = loading.load_pair("llama_pocket")
    for decoder, shipped in zip(pair, whole):
        assert set(decoder.stop_ids) == set(shipped.stop_ids)  # generation_config names them
        rows = prompts.render(decoder, prompts.load_prompts(POCKET, 3))
        made = generation.generate(decoder, rows, max_new_tokens=6)
        assert made == generation.generate(shipped, rows, max_new_tokens=6)


def test_a_model_without_any_end_is_one_sentence(tmp_path):
    pair_params = copy(tmp_path)
    edit(tmp_path / "pt" / "tokenizer_config.json", eos_token=None)
    edit(tmp_path / "pt" / "generation_config.json", eos_token_id=None)
    edit(tmp_path / "pt" / "config.json", eos_token_id=None)
    with pytest.raises(TokenizerError, match="no end-of-sequence token"):
        loading.load_pair(pair_params)


def lose(name):
    return lambda tensors: tensors.pop(name)


def scale(name, factor):
    return lambda tensors: tensors.update({name: tensors[name] * factor})


DOWN = "model.layers.5.mlp.down_proj.weight"


@pytest.mark.parametrize(
    "change, dtype, sentence",
    [(lose(DOWN), "float32", f"lacks {DOWN}"),
     (lambda tensors: tensors.update({"model.layers.5.mlp.extra": torch.ones(3)}), "float32",
      "unknown tensor model.layers.5.mlp.extra"),
     (lambda tensors: tensors.update({DOWN: tensors[DOWN][:, 1:].contiguous()}), "float32", DOWN),
     (scale(DOWN, float("nan")), "float32", f"weights {DOWN} are not finite"),
     (scale(DOWN, float("inf")), "float32", f"weights {DOWN} are not finite"),
     (scale(DOWN, 1e9), "float16", f"weights {DOWN} are not finite in float16")],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_tensor(change, dtype, sentence, tmp_path):
    pair_params = copy(tmp_path, "qwen", dtype=dtype)
    weights(tmp_path / "it", change)
    with pytest.raises(ParameterError) as error:
        loading.load_pair(pair_params)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_overflow_names_its_layer_and_the_remedy(tmp_path):
    """Finite weights whose products are too large for half precision, as in Gemma 3 under float16."""
    pair_params = copy(tmp_path, "qwen", dtype="float16")
    weights(tmp_path / "it", scale(DOWN, 3e4))
    with pytest.raises(
        StreamError, match=r"changed_qwen \(IT\) are not finite \(first at layer 5; float16\): set dtype"
    ):
        loading.load_pair(pair_params)


def test_models_of_other_shape_are_refused_at_load(tmp_path):
    pair_params = copy(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "it")
    model.config.intermediate_size += 8
    type(model)(model.config).save_pretrained(tmp_path / "it")
    with pytest.raises(
        ParameterError, match=r"layers.0.mlp.gate_proj.weight is .* in PT and .* in IT, so they are no pair"
    ):
        loading.load_pair(pair_params)


def test_a_prompt_beyond_the_context_is_named_before_anything_is_generated():
    pair = loading.load_pair("llama_pocket")
    long = prompts.Prompt("long", "fact", "Hanna lives in Dunmar. " * 120, "Hanna lives in Dunmar. " * 120)
    for decoder in pair:
        with pytest.raises(
            ParameterError, match=r"the prompt 'long' has \d+ tokens .* exceed its context of 256"
        ):
            prompts.render(decoder, [long])
        fits = prompts.Prompt("fits", "fact", "Hi", "Hi")
        (row,) = prompts.render(decoder, [fits], new_tokens=200)
        with pytest.raises(ParameterError, match="the prompt 'fits'"):
            prompts.render(decoder, [fits], new_tokens=256)
        with pytest.raises(
            ParameterError, match=rf"a prompt of {len(row)} tokens and 256 new ones do not fit"
        ):
            generation.generate(decoder, [row], max_new_tokens=256)


@pytest.mark.parametrize("family", params.FAMILIES)
def test_names_of_special_tokens_in_a_prompt_are_text(family):
    pair = loading.load_pair(f"{family}_pocket")
    for decoder in pair:
        special = decoder.tokenizer.convert_ids_to_tokens(list(decoder.stop_ids))
        text = f"What does {special[0]} mean, and {special[-1]}?"
        for read in (prompts.text_ids, prompts.chat_ids):
            ids, plain = read(decoder, text), read(decoder, "What does it mean, and this?")
            controls = set(decoder.tokenizer.all_special_ids)
            assert [i for i in ids if i in controls] == [i for i in plain if i in controls]
            assert text in decoder.tokenizer.decode(ids)


def test_what_a_tokenizer_adds_at_the_end_is_left_off():
    """A tokenizer that closes each text with EOS would end the prompt before the model begins."""
    tokenizer = loading.load_tokenizer(str(params.ROOT / "pocket/checkpoints/llama/pt"))
    bare = tokenizer("Hi", add_special_tokens=False)["input_ids"]

    class Closing:
        added_tokens_decoder = tokenizer.added_tokens_decoder
        bos_token_id = tokenizer.bos_token_id

        def __call__(self, text, add_special_tokens=True, **options):
            ids = tokenizer(text, add_special_tokens=False, **options)["input_ids"]
            return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}

    assert tokens.around(Closing()) == ([1], [2])
    decoder = Decoder("closing", "pt", None, Closing(), {})
    assert prompts.text_ids(decoder, "Hi") == [1, *bare]
