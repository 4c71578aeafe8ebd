"""From texts to GLIDE's tokens: GPT-2's byte-level BPE of a small vocabulary, and tokens as numbers."""

import sys

import pytest

from tests.glide import MERGES, N_VOCAB, VOCABULARY, write
from traj.pipeline.models.openai import tokens
from traj.pipeline.models.openai.tokens import Tokens
from traj.stores import InputError, MissingFile

PADDING = N_VOCAB - 1


def files(folder):
    return folder / "vocab.json", folder / "merges.txt"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return files(write(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def read(tokenizer):
    return Tokens(6, N_VOCAB, tokenizer)


def spelled(read, text):
    """The tokens of a text as they are written in the vocabulary, without padding."""
    names = {number: token for token, number in VOCABULARY.items()}
    numbers, mask = read.padded(text)
    assert mask.tolist() == sorted(mask.tolist(), reverse=True)
    assert set(numbers[~mask].tolist()) <= {PADDING}
    return [names[number] for number in numbers[mask].tolist()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", ["cat"]),
        ("Cat DOG", ["cat", "Ġdog"]),
        ("dog cat", ["d", "og", "Ġcat"]),
        ("dog's", ["d", "og", "'", "s"]),  # what follows an apostrophe is split off before pairs are merged
        ("cat  dog", ["cat", "Ġ", "Ġdog"]),  # the last space goes with the word
        ("cat12", ["cat", "1", "2"]),
        ("ö", ["Ã¶"]),  # two bytes in UTF-8
        ("##", ["##"]),
        ("\n", ["Ċ"]),
        ("", []),
    ],
)
def test_a_text_is_split_as_by_gpt_2(read, text, expected):
    assert spelled(read, text) == expected


def test_no_special_token_is_read_or_added(read):
    assert spelled(read, "<|endo") == ["<", "|", "e", "n", "d", "o"]


def test_the_end_of_a_text_that_is_too_long_is_lost_and_told(read):
    assert read.lost("cat dog") == ""
    assert read.lost("cat cat cat cat cat dog") == ""
    assert read.lost("cat cat cat cat cat dog Dog cat") == " dog cat"
    assert spelled(read, "cat cat cat cat cat dog Dog cat") == ["cat", *["Ġcat"] * 4, "Ġdog"]
    assert read.lost("tokens:1,2,3,4,5,6,7,8") == "7,8"


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_tokens_may_be_given_as_numbers(tokenizer, with_tokenizer):
    read = Tokens(4, N_VOCAB, tokenizer if with_tokenizer else None)
    numbers, mask = read.padded("tokens:64, 0")
    assert numbers.tolist() == [64, 0, PADDING, PADDING]
    assert mask.tolist() == [True, True, False, False]
    for empty in ("", "tokens:"):
        numbers, mask = read.padded(empty)
        assert numbers.tolist() == [PADDING] * 4
        assert not mask.any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tokens:a", "expected whole numbers after tokens:"),
        ("tokens:1,,2", "expected whole numbers after tokens:"),
        ("tokens:-1", "expected whole numbers after tokens:"),
        (f"tokens:1,{N_VOCAB}", f"token {N_VOCAB}; expected 0 to {N_VOCAB - 1}"),
        (
            "a cat",
            r"holds no tokenizer; convert the checkpoint again with --tokenizer FOLDER.*--prompt \"tokens:64,3797\"",
        ),
    ],
)
def test_what_are_no_tokens_is_refused_before_anything_runs(text, says):
    for reading in (Tokens(4, N_VOCAB).padded, Tokens(4, N_VOCAB).lost):
        with pytest.raises(InputError, match=says):
            reading(text)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = write(tmp_path / "a")
    with pytest.raises(InputError, match=rf"has token {N_VOCAB - 2}, but the model knows 100"):
        Tokens(4, 100, files(folder)).padded("a")
    fewer = {token: n for token, n in VOCABULARY.items() if token not in ("Ċ", "ÿ")}
    folder = write(tmp_path / "b", vocabulary=fewer)
    with pytest.raises(InputError, match="has no tokens for 2 of 256 bytes"):
        Tokens(4, N_VOCAB, files(folder)).padded("a")


@pytest.mark.parametrize(("name", "content"), [("vocab.json", "["), ("vocab.json", "[]"), ("merges.txt", "a b c\n")])
def test_files_that_are_no_tokenizer_are_named(tmp_path, name, content):
    folder = write(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=r"vocab\.json and .*merges\.txt cannot be loaded as a tokenizer"):
        Tokens(4, N_VOCAB, files(folder)).padded("a")


def test_without_the_library_it_is_said_what_to_install(tmp_path, monkeypatch):
    folder = write(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"pip install 'traj\[transformers\]'"):
        Tokens(4, N_VOCAB, files(folder)).padded("a")


@pytest.mark.parametrize(
    "names",
    [
        ("vocab.json", "merges.txt"),
        ("encoder.json", "vocab.bpe"),
        ("encoder.json.gz", "vocab.bpe.gz"),
        ("vocab.json.gz", "merges.txt"),
    ],
)
def test_files_are_copied_by_the_names_of_today(tmp_path, names):
    tokens.copy(write(tmp_path / "theirs", names), tmp_path / "ours")
    plain = write(tmp_path / "plain")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "ours" / name).read_bytes() == (plain / name).read_bytes()


def test_a_folder_without_both_files_is_refused(tmp_path):
    (write(tmp_path / "half") / "merges.txt").unlink()
    with pytest.raises(MissingFile, match=r"holds no tokenizer; expected vocab\.json and merges\.txt or encoder"):
        tokens.copy(tmp_path / "half", tmp_path / "out")
    write(tmp_path / "broken", ("encoder.json", "vocab.bpe"))
    (tmp_path / "broken" / "encoder.json").rename(tmp_path / "broken" / "encoder.json.gz")
    with pytest.raises(InputError, match=r"encoder\.json\.gz cannot be decompressed"):
        tokens.copy(tmp_path / "broken", tmp_path / "out")


def test_the_hash_is_that_of_both_files(tmp_path):
    folder = write(tmp_path)
    assert Tokens(4, N_VOCAB).sha256 is None
    first = Tokens(4, N_VOCAB, files(folder)).sha256
    (folder / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in MERGES[:3]))
    assert Tokens(4, N_VOCAB, files(folder)).sha256 != first
