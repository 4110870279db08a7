"""How raw text is cleaned before it is tokenized: `clean_caption` and `clean_question`, as the published data was."""

import re
from collections.abc import Callable

_STRIPPED_IN_FRONT = ",.!?*#:;~"


def clean_caption(text: str, max_words: int | None = None) -> str:
    """Lower-cased caption or referring expression without leading punctuation, cut to `max_words` words.

    >>> clean_caption("#*A <person> on-a    bike.")
    'a person on a bike.'
    """
    return _clean(text, max_words, {"-": " ", "/": " ", "<person>": "person"})


def clean_question(text: str, max_words: int | None = None) -> str:
    """The same for a question; it keeps `<person>` and always ends in a question mark, added after the cut.

    >>> clean_question("What's on the tv/monitor")
    "what's on the tv monitor?"
    """
    question = _clean(text, max_words, {"-": " ", "/": " "})
    return question if question.endswith("?") else question + "?"


def cut_words(clean: Callable[[str, int | None], str], text: str, max_words: int) -> tuple[str, tuple[str, ...]]:
    """The cleaned text of at most `max_words` words, and a note where that cut it; `clean` is one of the above."""
    cut = clean(text, max_words)
    return cut, () if cut == clean(text, None) else (f"text cut to {max_words} words",)


def _clean(text: str, max_words: int | None, replacements: dict[str, str]) -> str:
    text = text.lower().lstrip(_STRIPPED_IN_FRONT)
    for old, new in replacements.items():
        text = text.replace(old, new)
    # Runs of two and more: a single tab or no-break space stays, as it did in the text the published models saw.
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])
