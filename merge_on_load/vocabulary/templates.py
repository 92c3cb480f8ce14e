"""Chat templates that a recipe can name, written after the formats' publications.

Jinja2 as transformers renders it: blocks take their line's indent and end with them.
"""

# https://github.com/tatsu-lab/stanford_alpaca#data-release: the prompt without an input.
_ALPACA = """\
{%- if messages and messages[0]['role'] == 'system' %}
    {{- messages[0]['content'] | trim }}
{%- else %}
    {{- 'Below is an instruction that describes a task. ' }}
    {{- 'Write a response that appropriately completes the request.' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '\\n\\n### Instruction:\\n' + message['content'] | trim }}
    {%- elif message['role'] == 'assistant' %}
        {{- '\\n\\n### Response:\\n' + message['content'] | trim + eos_token }}
    {%- elif not loop.first %}
        {{- raise_exception('alpaca has a system message only as the first') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\\n\\n### Response:\\n' }}
{%- endif %}
"""

# https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md
_CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3
_LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# "Instruction format" in the model card of Mistral-7B-Instruct-v0.1. It has no place for
# a system message, which goes before the first instruction.
_MISTRAL = """\
{%- set system = '' %}
{%- set turns = messages %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim + '\\n\\n' %}
    {%- set turns = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('mistral has turns of user and assistant, one after the other') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- else %}
        {{- raise_exception('mistral has a system message only as the first') }}
    {%- endif %}
{%- endfor %}
"""

# The model card of EXAONE-3.0-7.8B-Instruct and its technical report
_EXAONE = """\
{%- if not messages or messages[0]['role'] != 'system' %}
    {{- '[|system|][|endofturn|]\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '[|' + message['role'] + '|]' + message['content'] | trim }}
    {{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[|assistant|]' }}
{%- endif %}
"""

TEMPLATES = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
    "exaone": _EXAONE,
}
