"""The embedded demo vocabulary, a byte-level BPE: `python -m tasks.demo_vocabulary` rewrites ofa/demo_vocabulary/.

As in the published vocabulary, special tokens are 0..3 and `<mask>` is 50264; ids in between are unused.
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from data.demo.language import PROPERTIES, plural
from data.demo.scenes import COLOURS, SHAPES, SIZES
from ofa.tokenizer import DEMO_FOLDER
from ofa.vocabulary import MASK

WORDS = """
which region does the text " " describe? what does the image describe? can image and text1 " " imply text2 " "?
does the image describe " "? what is the complete image? caption: what is the summary of article " "?
is the text " " grammatically correct? does text1 " " and text2 " " have the same semantics?
does " " contain the answer to question " "? is question " " and question " " equivalent?
is the sentiment of text " " positive or negative? what are the texts on the image?
what is the complete text of " "? what is the answer to question " ". is " "?
what does the region describe? region: what is the image in the middle part? what are the objects in the image?
yes no maybe positive negative object: objects
a an and the there is are no not it on in of to with one two three four five left right top bottom side above
below beside next near picture image scene shape shapes shows see how many what which colour color where something
"""  # the prompts of all tasks, answers, and words of the demo's texts


def main() -> None:
    """Writes vocab.json and merges.txt."""
    plurals, numbers = map(plural, SHAPES), map(str, range(17))  # of objects in dense scenes
    words = " ".join([WORDS, *COLOURS, *SHAPES, *plurals, *SIZES, *PROPERTIES, *numbers]).split()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in words] * 2, trainer)  # twice: all become single tokens
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    vocabulary["<mask>"] = MASK
    DEMO_FOLDER.mkdir(exist_ok=True)
    content = json.dumps(vocabulary, ensure_ascii=False, indent=0)
    (DEMO_FOLDER / "vocab.json").write_text(content + "\n", encoding="utf-8")
    lines = [" ".join(merge) if isinstance(merge, list) else merge for merge in merges]
    (DEMO_FOLDER / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
