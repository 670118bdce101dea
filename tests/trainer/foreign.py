"""Tokenizers and templates in the layout of the families that models come from, small enough to build in a test.

The templates say the same as those families' own ones; the words are ours.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The fox eats mice and berries. A fox lives in a den under the old tree. user assistant system",
    "What does a rabbit eat? A rabbit eats grass, and 7 + 5 = 12.\n\nMira has 3 apples. She buys 14 more.",
    "Why? Because it is cold. [INST] Tell me [/INST] think. Für alle: été, naïve, 你好 世界.",
] * 4

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful fox.<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = """{%- set day = strftime_now('%d %b %Y') if strftime_now is defined else '1 Jan 2024' %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set said = messages[0]['content']|trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set said = '' %}
    {%- set rest = messages %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + day + '\\n\\n' + said + '<|eot_id|>' }}
{%- for message in rest %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate: user, assistant, user, assistant.') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
LLAMA2 = """{%- if messages[0]['role'] == 'system' %}
    {%- set said = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set said = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (said if loop.first else '') + message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'].strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
"""
QWEN3 = """{%- set seen = namespace(last=messages|length - 1, open=true) %}
{%- for message in messages[::-1] %}
    {%- set place = messages|length - 1 - loop.index0 %}
    {%- if seen.open and message.role == 'user' %}
        {%- set seen.last = place %}
        {%- set seen.open = false %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- set said = message.content %}
        {%- if '</think>' in said %}
            {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > seen.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + said.lstrip('\\n') }}
        {%- else %}
            {{- said }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GENERATION = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

GPT4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(special: Sequence[str], *, plain: Sequence[str] = (), pattern: str | None = None) -> Tokenizer:
    """Byte-level BPE: SmolLM2 and Qwen (no pattern: GPT-2's), Llama 3 (GPT-4's); control tokens behind the others."""
    backend = Tokenizer(models.BPE())
    first = (
        pre_tokenizers.Digits(individual_digits=True)
        if pattern is None
        else pre_tokenizers.Split(Regex(pattern), "isolated")
    )
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, last])
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=450, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])
    return backend


def sentencepiece(special: Sequence[str] = ("<unk>", "<s>", "</s>"), *, metaspace: bool = False) -> Tokenizer:
    """Llama 2's, TinyLlama's and Mistral's: "▁" for a space, a token for every byte that has no letter."""
    alphabet = sorted({*string.ascii_letters, *string.digits, *"▁.,?+=[]</>|_éäïü"})
    vocabulary = {token: id for id, token in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256))])}
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Prepend("▁")
    trained.train_from_iterator(
        [word for text in TEXTS for word in text.split()],  # "▁" only ever begins a token
        trainers.BpeTrainer(vocab_size=200, initial_alphabet=alphabet, show_progress=False),
    )
    learnt = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learnt["merges"]]
    for token in sorted(learnt["vocab"], key=learnt["vocab"].__getitem__):
        vocabulary.setdefault(token, len(vocabulary))
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return backend


CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>")
LLAMA3_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"
)  # fmt: skip


def _llama3() -> Tokenizer:
    backend = byte_level(LLAMA3_TOKENS, pattern=GPT4_PATTERN)
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                special_tokens=[("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))],
            ),
        ]
    )
    return backend


def _qwen3() -> Tokenizer:
    backend = byte_level(CHATML_TOKENS, plain=("<think>", "</think>"), pattern=GPT4_PATTERN)
    backend.normalizer = normalizers.NFC()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


_CHATML_NAMES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
_SPM_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
FAMILIES: Mapping[str, tuple[Callable[[], Tokenizer], dict[str, Any], tuple[str, ...]]] = {
    "smollm2": (
        lambda: byte_level(CHATML_TOKENS),
        {**_CHATML_NAMES, "unk_token": "<|endoftext|>", "chat_template": CHATML},
        ("<|im_end|>",),
    ),
    "llama3": (
        _llama3,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": LLAMA3},
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "mistral": (sentencepiece, {**_SPM_NAMES, "chat_template": MISTRAL}, ("</s>",)),
    "llama2": (
        lambda: sentencepiece(metaspace=True),
        {**_SPM_NAMES, "pad_token": "<unk>", "chat_template": LLAMA2},
        ("</s>",),
    ),
    "qwen3": (
        _qwen3,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": QWEN3},
        ("<|im_end|>", "<|endoftext|>"),
    ),
    "generation": (
        lambda: byte_level(CHATML_TOKENS),
        {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "chat_template": GENERATION},
        ("<|im_end|>",),
    ),
}
"""Of each: how its tokenizer is built, its tokenizer_config.json, and how its ends are spelled."""


@cache
def _built(family: str) -> Tokenizer:
    return FAMILIES[family][0]()


def write(directory: Path, family: str, **changes: Any) -> Path:
    """A directory with the tokenizer's files of that family, as a model comes with them; `changes` to its config."""
    directory.mkdir(parents=True, exist_ok=True)
    backend, (_, config, ends) = _built(family), FAMILIES[family]
    (directory / "tokenizer.json").write_text(backend.to_str(pretty=True))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", **config, **changes}
    (directory / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in named.items() if v is not None}))
    ids = [backend.token_to_id(end) for end in ends]
    said = {"eos_token_id": ids if len(ids) > 1 else ids[0], "temperature": 0.6, "top_p": 0.9}
    (directory / "generation_config.json").write_text(json.dumps(said))
    return directory
