"""The start of a text that decides its first tokens, so that a text far longer than the model reads costs little."""

from __future__ import annotations

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from distilrt.text.tokenizer import DistilBertTokenizer

_CHARACTERS = 8  # for each token in the first start that is tried; English has about 4.5
_GROWTH = 4  # the factor by which a start with too few tokens grows
_MARGIN = 256  # characters at the end of a start that may belong to a cut token or run of accents


def start_of(tokenizer: DistilBertTokenizer, text: str, tokens: int) -> str:
    """A start of `text` whose first `tokens` tokens are those of the whole text; the text itself where it has fewer, or
    where that can't be known.

    BERT's normalizer and pre-tokenizer look at a character and its neighbours alone, so what lies behind a word cannot
    change the tokens of the words before it.
    """
    size = _CHARACTERS * tokens
    rust = tokenizer.backend_tokenizer
    if (
        len(text) < _GROWTH * size
        or type(rust.normalizer) is not BertNormalizer
        or type(rust.pre_tokenizer) is not BertPreTokenizer
        or any(len(token.content) > _MARGIN for token in rust.get_added_tokens_decoder().values())
    ):
        return text
    while _GROWTH * size <= len(text):
        start = text[:size]
        try:
            # The method for several texts lets other threads run meanwhile.
            [found] = rust.encode_batch([start], add_special_tokens=False)
        except TypeError:  # half a surrogate pair, which the tokenizer says of the whole text
            return text
        words, offsets = found.word_ids, found.offsets
        last = words[-1] if words else None
        whole = len(words)
        while whole and (words[whole - 1] == last or offsets[whole - 1][1] > size - _MARGIN):
            whole -= 1
        if whole >= tokens:
            return start
        size *= _GROWTH
    return text
