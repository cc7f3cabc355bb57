"""Loading a folder's tokenizer: it is the one that tokenizer.json describes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

from examples.tiny_addition import make_data
from megatron_stare.data.probes import PROBES, first_difference
from megatron_stare.data.tokenizer import load_tokenizer, tokenizer_identity
from megatron_stare.errors import UserError
from tests.models import EOS_ID, edit_json, make_tokenizer
from tests.tokenizer_files import KINDS, SPECIAL, byte_level, write_folder

CLASSES = [
    "LlamaTokenizerFast",
    "LlamaTokenizer",
    "PreTrainedTokenizerFast",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
    "GPT2TokenizerFast",
    "ByT5Tokenizer",
    "CTRLTokenizer",
    "NoSuchTokenizer",
    None,
]
TEXTS = [*PROBES.values(), "How are you\n\n doing? 你好", f"a{SPECIAL[2]}b {SPECIAL[4]}\n12345"]


def test_a_saved_tokenizer_loads(tmp_path: Path):
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos_token_id == EOS_ID
    assert tokenizer("2+2=")["input_ids"] == make_tokenizer()("2+2=")["input_ids"]
    assert tokenizer.chat_template is not None


def test_a_vocabulary_of_few_words_and_no_unknown_token_is_one(tmp_path: Path):
    """tiny_addition's: most of the probes have no tokens in it."""
    make_data.build_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    text = r"7 plus 9 makes 16 so \boxed{16}"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer_class", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_encodes_and_decodes_as_the_file_whatever_the_class(tmp_path, kind, tokenizer_class):
    """`transformers` alone would lose every space of bytes under LlamaTokenizerFast."""
    for model_type in ("llama", "qwen2"):
        folder = write_folder(
            tmp_path / model_type,
            KINDS[kind](),
            model_type=model_type,
            tokenizer_class=tokenizer_class,
            add_bos_token=True,
            clean_up_tokenization_spaces=True,
            split_special_tokens=True,
        )
        file, tokenizer = (
            Tokenizer.from_file(str(folder / "tokenizer.json")),
            load_tokenizer(folder),
        )
        for text in TEXTS:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids == file.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(ids) == file.decode(ids, skip_special_tokens=False)
            assert tokenizer(text)["input_ids"] == file.encode(text).ids
            if kind == "bytes":
                assert tokenizer.decode(ids) == text


def test_truncation_and_padding_in_the_file_are_not_the_tokenizers(tmp_path: Path):
    core = byte_level()
    core.enable_truncation(3)
    core.enable_padding(length=64)
    tokenizer = load_tokenizer(write_folder(tmp_path, core))
    assert len(tokenizer("abcdefgh", add_special_tokens=False)["input_ids"]) == 8


def test_a_tokenizer_that_is_not_the_files_is_refused(tmp_path: Path):
    """Here another file is named in tokenizer_config.json, for newer versions of transformers."""
    folder = write_folder(tmp_path, byte_level(), fast_tokenizer_files=["tokenizer.4.0.0.json"])
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.4.0.0.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        load_tokenizer(folder)
    assert "tokenizer.json: the tokenizer that transformers makes of it" in str(error.value)
    assert 'words: "How are you' in str(error.value)


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path: Path):
    folder = write_folder(
        tmp_path, byte_level(), auto_map={"AutoTokenizer": [None, "evil.EvilTokenizer"]}
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert load_tokenizer(folder).eos_token == "<eos>"
    assert not (tmp_path / "ran").exists()


IN_PYTHON = {
    "bytes": ("ByT5Tokenizer", ["added_tokens.json"]),
    "characters": ("Wav2Vec2CTCTokenizer", ["vocab.json"]),
    "code points": ("CanineTokenizer", ["vocab.json"]),
    "words": ("CTRLTokenizer", ["vocab.json", "merges.txt"]),
    "tiktoken": ("QWenTokenizer", ["qwen.tiktoken", "vocab.json"]),
    "sentence pieces": ("LlamaTokenizer", ["tokenizer.model"]),
    "byte-level merges": ("Qwen2Tokenizer", ["vocab.json", "merges.txt"]),
}
"""Tokenizers that transformers has in Python, or makes of other files: a class, and its files."""


@pytest.mark.parametrize("kind", IN_PYTHON)
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_a_tokenizer_in_python_or_of_other_files_is_refused(tmp_path, kind, model_type):
    """None has a file that says how it encodes; of their rules none could be relied upon."""
    tokenizer_class, names = IN_PYTHON[kind]
    folder = write_folder(
        tmp_path,
        byte_level(),
        model_type=model_type,
        tokenizer_class=tokenizer_class,
        auto_map={"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]},
    )
    (folder / "tokenizer.json").unlink()
    vocabulary = {"<eos>": 0} | {chr(97 + number): number + 1 for number in range(26)}
    for name in names:
        (folder / name).write_text("a b\n" if name == "merges.txt" else json.dumps(vocabulary))
    (folder / "tokenization_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match=r"no tokenizer\.json, expected one: .* in Python, are not"):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_special_tokens_that_no_file_names_are_those_of_the_class(tmp_path: Path):
    core = byte_level()
    core.add_special_tokens(["<s>", "</s>"])
    settings = {"tokenizer_class": "LlamaTokenizer", "eos_token": None, "bos_token": None}
    tokenizer = load_tokenizer(write_folder(tmp_path, core, **settings))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.decode(tokenizer("a  b")["input_ids"], skip_special_tokens=True) == "a  b"


def test_the_first_difference_is_told_by_kind_and_place():
    probes = {"words": "abc", "digits": "1234"}
    assert first_difference(probes, [[1], [2, 3]], [[1], [2, 3]]) is None
    assert first_difference(probes, [[1], [2, 3]], [[1], [2, 4, 5]]) == (
        "digits: '1234' becomes 2 tokens, expected 3; from token 1 on [3], expected [4, 5]"
    )
    assert "expected 1; from token 0 on [], expected [1]" in str(
        first_difference(probes, [[], []], [[1], []])
    )


def test_an_identity_changes_with_vocabulary_rules_end_and_template_alone(tmp_path: Path):
    folder = write_folder(tmp_path / "model", byte_level())
    tokenizer = load_tokenizer(folder)
    identity = tokenizer_identity(tokenizer)
    tokenizer(["a", "b c"], truncation=True, max_length=2)
    assert identity == tokenizer_identity(tokenizer) == tokenizer_identity(load_tokenizer(folder))

    def changed(**settings) -> set[str]:
        edit_json(folder / "tokenizer_config.json", **settings)
        found = tokenizer_identity(load_tokenizer(folder))
        return {key for key, digest in identity.items() if found[key] != digest}

    assert changed(chat_template="{{ messages }}") == {"chat_template"}
    assert changed(eos_token="<|im_end|>") == {"chat_template", "tokenizer"}
    core = byte_level()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    write_folder(folder, core)
    assert changed() == {"tokenizer"}


def test_a_folder_without_a_usable_tokenizer_is_one_clear_error(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(UserError, match=r"no tokenizer\.json, expected one"):
        load_tokenizer(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(UserError, match=r"tokenizer\.json: not valid JSON"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"tokenizer_config\.json: not valid JSON"),
        ("[]", r"tokenizer_config\.json: expected that of a tokenizer, as a JSON object"),
        ('{"added_tokens_decoder": 3}', "no usable tokenizer"),
        ("[" * 10_000, r"tokenizer_config\.json: not valid JSON \(too many levels"),
    ],
)
def test_a_malformed_tokenizer_config_is_one_clear_error(tmp_path: Path, content: str, said: str):
    folder = write_folder(tmp_path, byte_level())
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=said):
        load_tokenizer(folder)


def test_what_the_models_config_says_of_layers_does_not_matter_to_the_tokenizer(tmp_path: Path):
    folder = write_folder(tmp_path, byte_level())
    edit_json(folder / "config.json", head_dim=7, num_hidden_layers=10**9)
    assert load_tokenizer(folder).eos_token == "<eos>"


def test_a_tokenizer_without_an_end_of_sequence_is_refused(tmp_path: Path):
    make_tokenizer(eos=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no eos_token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "decoder", [None, decoders.BPEDecoder(), decoders.Sequence([decoders.Fuse()])], ids=repr
)
def test_bytes_that_are_not_decoded_to_text_are_refused(tmp_path: Path, decoder):
    """A verifier would read `HowĠare`, whatever the policy has written."""
    core = byte_level()
    core.decoder = decoder
    with pytest.raises(UserError, match=r"tokenizer\.json: decodes words to .*Ġ"):
        load_tokenizer(write_folder(tmp_path, core))


def test_bytes_of_which_the_file_itself_loses_the_spaces_are_refused(tmp_path: Path):
    core = byte_level()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    with pytest.raises(UserError, match=r"decodes words to .Howareyou.*its pre-tokenizer or its"):
        load_tokenizer(write_folder(tmp_path, core))


def test_what_a_normalizer_changes_and_a_space_in_front_are_the_tokenizers_own(tmp_path: Path):
    core = byte_level()
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = load_tokenizer(write_folder(tmp_path, core))
    assert tokenizer.decode(tokenizer.encode("A e\u0301", add_special_tokens=False)) == " a é"


def test_an_end_of_sequence_that_only_the_config_knows_is_refused(tmp_path: Path):
    """transformers would give it the next id, whose embedding nobody has trained."""
    folder = write_folder(tmp_path, byte_level(), eos_token="<|eot_id|>")
    with pytest.raises(UserError, match=r"tokenizer\.json: has no token '<\|eot_id\|>'"):
        load_tokenizer(folder)
