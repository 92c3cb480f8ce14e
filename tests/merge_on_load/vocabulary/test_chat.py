"""The chat template of the result, rendered by transformers."""

import json

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from merge_on_load.errors import BadRecipe
from merge_on_load.vocabulary import chat_template_files
from merge_on_load.vocabulary.templates import TEMPLATES

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who are you?"},
]
RENDERED = {
    "alpaca": (
        "Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>"
        "\n\n### Instruction:\nWho are you?\n\n### Response:\n"
    ),
    "chatml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral": "<s>[INST] Be kind.\n\nHi [/INST] Hello.</s>[INST] Who are you? [/INST]",
    "exaone": (
        "[|system|]Be kind.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello.[|endofturn|]\n"
        "[|user|]Who are you?\n[|assistant|]"
    ),
}


@pytest.fixture
def model(kit):
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    return kit.model("a", kit.bpe("hello", special=("<s>", "</s>")), roles=roles)


@pytest.fixture
def talk(kit, model):
    """talk(template, messages) is what transformers makes of a result with the template."""

    def render(told, messages, models=None, **options):
        files = {name: path.read_bytes() for name, path in model.side_files.items()}
        files |= chat_template_files(told, models or [model], files)
        path = kit.write(f"talk{len(list(model.path.parent.iterdir()))}", files)
        tokenizer = AutoTokenizer.from_pretrained(path)
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    return render


def has(model, template):
    """The model has this template."""
    file = model.path / "chat_template.jinja"
    file.write_text(template)
    model.side_files[file.name] = file
    return model


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_built_in_template_is_what_was_published(talk, name):
    assert talk(name, TALK, add_generation_prompt=True) == RENDERED[name]


def test_without_a_system_message_and_without_a_prompt(talk):
    first = TALK[1:3]
    assert talk("chatml", first) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    )
    assert talk("mistral", first) == "<s>[INST] Hi [/INST] Hello.</s>"
    assert talk("exaone", first) == (
        "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]Hello.[|endofturn|]\n"
    )
    assert talk("alpaca", first) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>"
    )


@pytest.mark.parametrize("messages", [TALK[2:], [*TALK[1:], TALK[0]], [TALK[1], TALK[1]]])
def test_mistral_refuses_what_it_has_no_form_for(talk, messages):
    with pytest.raises(TemplateError, match="mistral"):
        talk("mistral", messages)


def test_a_template_of_one_s_own_is_used_as_it_is(talk):
    told = "{% for one in messages %}{{ one['role'] }}: {{ one['content'] }}|{% endfor %}"

    assert talk(told, TALK[:2]) == "system: Be kind.|user: Hi|"


def test_what_transformers_alone_understands_is_accepted(talk):
    told = (
        "{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}"
        "{% break %}{% endfor %}"
    )

    assert talk(told, TALK[1:2]) == '{"role": "user", "content": "Hi"}'


def test_auto_is_the_most_common_one_and_of_equals_the_first(kit, model, talk):
    others = [kit.model(name, kit.bpe("hello")) for name in "bcd"]
    has(model, "{{ 'first' }}")
    has(others[0], "{{ 'often' }}")
    assert talk("auto", TALK, [model, *others]) == "first"
    has(others[2], "{{ 'often' }}")
    assert talk("auto", TALK, [model, *others]) == "often"


def test_templates_in_tokenizer_config_count_and_make_way(kit, model, change):
    named = [
        {"name": "tool_use", "template": "{{ 1 }}"},
        {"name": "default", "template": "{{ 2 }}"},
    ]
    others = [kit.model(name, kit.bpe("hello")) for name in "bc"]
    has(model, "{{ 3 }}")
    for other, told in zip(others, (named, "{{ 2 }}"), strict=True):
        file = other.side_files["tokenizer_config.json"]
        change(file, lambda config, told=told: config.update(chat_template=told))
    before = others[0].side_files["tokenizer_config.json"].read_bytes()
    files = chat_template_files("auto", [model, *others], {"tokenizer_config.json": before})

    assert files["chat_template.jinja"] == b"{{ 2 }}"
    left = json.loads(files["tokenizer_config.json"])
    assert "chat_template" not in left
    assert {**left, "chat_template": named} == json.loads(before)


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ("auto", "no model has a chat template"),
        ("chatlm", "neither a name nor a Jinja2 template"),
        ("{% for m in messages %}{{ m }}", "line 1"),
        ("{{ m | nofilter }}", "nofilter"),
    ],
)
def test_what_is_no_template_is_refused(model, told, problem):
    with pytest.raises(BadRecipe, match=problem):
        chat_template_files(told, [model], {})
