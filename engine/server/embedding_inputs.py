"""Inputs of embeddings in all wire formats: texts or token ids, and the prompt before them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from distilrt.runtime.engine import Engine
from distilrt.server.statuses import Empty, Unprocessable

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Texts = str | list[str | TokenId | list[TokenId]]
Direction = Literal["Left", "Right", "left", "right"]


def items(inputs: str | list[Any]) -> list[Any]:
    """The inputs of an embedding, each a text or token ids.

    Raises:
        Empty: there is none.
        Unprocessable: a list of both kinds and numbers.
    """
    if isinstance(inputs, str):
        return [inputs]
    if not inputs:
        raise Empty("there must be at least one input, the list is empty")
    kinds = set(map(type, inputs))
    if kinds == {int}:
        return [inputs]
    if int in kinds:
        raise Unprocessable(
            "the inputs must be a text, the token ids of one, or a list of texts and lists of token "
            "ids; this is a list of numbers and others"
        )
    return inputs


def prompt(engine: Engine, name: str | None, items: list[Any]) -> str:
    """The prompt that a sentence encoder wants before texts; `name` None: its default prompt, or an empty one.

    Raises:
        Unprocessable: no prompt of that name, or one for token ids.
    """
    if name is None:
        return engine.prompts[""]
    if name not in engine.prompts or not name:
        named = ", ".join(filter(None, engine.prompts)) or "none"
        raise Unprocessable(f"prompt_name must be one of the model's prompts, which are: {named}; found {name!r:.80}")
    if any(isinstance(item, list) for item in items):
        raise Unprocessable("a prompt goes before a text, not before token ids; send text, or leave prompt_name out")
    return engine.prompts[name]
