"""What a tokenizer call returns: its maps between tokens, words and characters, as transformers' own gives them."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from transformers import BatchEncoding as Reference

from distilrt.text.encoding import BatchEncoding
from tests.text.tokenizer_pairs import full


def test_encoding_maps() -> None:
    texts = (["Héllo wörld, again", "a [MASK]"], ["second texts", "here"])
    ours, reference = full()[0](*texts), full()[1](*texts)
    for row in range(2):
        assert ours.tokens(row) == reference.tokens(row)
        assert ours.word_ids(row) == reference.word_ids(row)
        assert ours.sequence_ids(row) == reference.sequence_ids(row)
        assert ours[row].ids == reference[row].ids
        for token in range(len(ours["input_ids"][row])):
            assert ours.token_to_chars(row, token) == reference.token_to_chars(row, token)
            assert ours.token_to_word(row, token) == reference.token_to_word(row, token)
        for sequence in range(2):
            for char in range(len(texts[sequence][row])):
                assert ours.char_to_token(row, char, sequence) == reference.char_to_token(row, char, sequence)
                assert ours.char_to_word(row, char, sequence) == reference.char_to_word(row, char, sequence)
            for word in {index for index in ours.word_ids(row) if index is not None}:
                expected = reference.word_to_tokens(row, word, sequence)
                assert ours.word_to_tokens(row, word, sequence) == expected
                if expected is not None:
                    assert ours.word_to_chars(row, word, sequence) == reference.word_to_chars(row, word, sequence)
    assert ours.token_to_chars(1) == reference.token_to_chars(1) == (0, 5)
    assert getattr(ours.token_to_chars(1), "start", None) == 0
    assert ours.char_to_token(6) == reference.char_to_token(6)
    assert ours.word_to_chars(1) == reference.word_to_chars(1)


def test_encoding_is_a_mapping() -> None:
    encoding = full()[0]("a b")
    assert dict(**encoding) == {"input_ids": encoding.input_ids, "attention_mask": encoding["attention_mask"]}
    assert encoding.is_fast
    for twin in (pickle.loads(pickle.dumps(encoding)), copy.deepcopy(encoding)):
        assert twin == encoding
        assert twin.tokens() == encoding.tokens()
    with pytest.raises(AttributeError, match="input_ids, attention_mask"):
        _ = encoding.token_type_ids
    with pytest.raises(KeyError):
        encoding["token_type_ids"]
    untraced = BatchEncoding({"input_ids": [1]})
    with pytest.raises(ValueError, match="pad"):
        untraced.tokens()
    with pytest.raises(KeyError):
        untraced[0]


def test_to_device() -> None:
    encoding = full()[0]("a", return_tensors="pt", return_length=True)
    moved = encoding.to("cpu")
    assert moved is encoding
    assert moved.input_ids.device == torch.device("cpu")
    assert full()[0]("a").to("cpu")["input_ids"] == full()[0]("a")["input_ids"]


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_convert_to_tensors(kind: str) -> None:
    for args in (("a b",), (["a b", "c d"],)):
        ours, reference = (
            one(*args).convert_to_tensors(kind, prepend_batch_axis=isinstance(args[0], str)) for one in full()
        )
        for key in reference:
            assert ours[key].shape == reference[key].shape
            assert ours[key].dtype == reference[key].dtype
            assert (ours[key] == reference[key]).all()
    encoding = full()[0]("a")
    assert encoding.convert_to_tensors() is encoding
    assert encoding.convert_to_tensors(kind).convert_to_tensors(kind)["input_ids"].shape == (3,)
    with pytest.raises(ValueError, match="padding=True"):
        full()[0](["a", "a b"]).convert_to_tensors(kind)
    with pytest.raises(ValueError, match="tensor_type"):
        encoding.convert_to_tensors("tf")


@pytest.mark.parametrize(
    "method",
    [
        *("token_to_sequence", "token_to_chars", "token_to_word", "char_to_token", "char_to_word", "word_to_tokens"),
        *("word_to_chars", "tokens", "word_ids", "sequence_ids", "to"),
    ],
)
def test_transformers_parameters(method: str) -> None:
    names = [list(inspect.signature(getattr(one, method)).parameters) for one in (BatchEncoding, Reference)]
    assert names[0] == names[1]


def test_transformers_names() -> None:
    for args in (("a b",), ("a", "b"), (["a", "b c"],)):
        ours, reference = (one(*args) for one in full())
        assert ours.data == reference.data
        assert ours.n_sequences == reference.n_sequences
        assert [one.ids for one in ours[:1]] == [one.ids for one in reference[:1]]
        for token in range(len(ours[0].ids)):
            assert ours.token_to_sequence(0, token) == reference.token_to_sequence(0, token)
    padded = [one.pad({"input_ids": [[1], [2, 3]]}) for one in full()]
    assert padded[0][1:] == padded[1][1:]
    assert padded[0].n_sequences is None
