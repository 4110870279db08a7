"""Plain standard English, and no names of earlier versions, in code, configurations, pages and tests.

    python tests/test_language.py [FILE ...]    prints every finding as file:line

Phrases are looked for in what people read: comments, docstrings, messages, names of tests, pages. Code, code in
backquotes, and strings without a space (keys, names of files) are left out.
"""

import io
import re
import subprocess
import sys
import tokenize
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Phrase (a regular expression; a space matches any white space) -> what to write instead.
BANNED = {
    # order and time
    r"behind": "after, following, to the right of",
    r"anew": "again, from scratch",
    r"(?:goes|go|went|gone|going) on": "resume, continue, happen",
    r"carr(?:y|ies|ied) on": "continue",
    r"comes? (?:no|any) further|came no further": "make no progress",
    r"at an end": "finished",
    r"to come": "following, later",
    r"ahead of time|ahead(?= with| by)": "beforehand, in advance",
    r"the (?:present|then) (?:folder|directory|SQLAlchemy)": "the current",
    r"in order(?! (?:to|that|of))": "cleanly, gracefully; sorted",
    # learning
    r"learnt": "trained on, learned",
    r"learns? from": "is trained on, effective batch size",
    r"by heart": "overfit",
    r"updates?": "step, optimizer step",
    r"guess(?:es|ed|ing)? (?:blind|better)|guessing": "blind baseline, text-only baseline",
    r"teach(?:es)? (?:nothing|little)": "give no signal, is not enough",
    # asking and answering
    r"(?:is|are|was|be|being|been|has|have) asked(?! for)": "is prompted, input",
    r"ask(?:s|ed)? (?:the|a|its|his|each|every|another) (?:model|teacher|student|network)": "prompt",
    r"ask(?:s|ed)? (?:openly|anew|again|about|in English)": "prompt",
    r"openly": "without a list of answers",
    r"says? so": "log it, report it",
    r"(?:files?|folders?|checkpoints?|page|table|config|configuration|row|line|it) (?:says?|tells?|said|told)":
        "contains, reports, states",
    r"(?:is|are|was|were|be|been) (?:said|told)": "reported, documented, set",
    r"says? (?:how|what|which|where|whether|themselves|itself)": "define, state, report",
    r"without a word": "silently",
    r"in a sentence|(?:in|is|be|by|with) one sentence|ends? in one": "a clear error message",
    r"words of (?:a|the|its|train|evaluate) (?:command|call|line|run|job|launcher|script)": "arguments, overrides",
    # results
    r"what (?:becomes|became|comes|came) of": "result, outcome",
    r"what (?:it|they|he|she|that|a run) becomes?": "result, outcome",
    # files and folders
    r"pictures?": "image",
    # jobs and processes
    r"left alone|leaves? (?:\w+ ){0,6}alone|let alone": "uninterrupted, unchanged, not affected",
    r"shar(?:e|es|ed|ing) out|deal(?:s|t)? out": "shard, distribute",
    r"queues? (?:itself|themselves)|into the queue|(?:is|are|be) queued again": "requeue",
    r"turns? of (?:a|the|its|each|this) (?:job|run)|(?:next|this|three|each|job's) turns?|a turn(?! of)":
        "allocation, run",
    r"first of (?:the |its |each |every )?machine": "local rank 0",
    r"the first (?:one )?of (?:several|all) processes|of the first process|by the first process": "rank 0",
    r"alone": "only",
    # style
    r"beside|besides(?= it| them)": "in addition to, next to",
    r"(?:it|he|this|that|which) (?:is|was) no (?!longer|more\b|need|such|less|different|better)": "is not a",
    r"(?:has|have|had) not (?:a|an|any|the|its|one|all|enough)": "does not have",
    r"(?:need|dare)s? not": "does not have to",
    r"be it": "whether",
    r"for want of": "for lack of",
    r"save for|but for(?! (?:a|the) (?:file|folder))": "except, apart from",
    r"of its own accord|by itself(?= as|\.| \()|all by itself": "automatically",
    r"void(?! \*)": "irrelevant, empty",
    r"to the (?:same|last) (?:bits?|byte)": "bit for bit, byte for byte",
}  # fmt: skip

# Phrase -> files (or folders) where it is right, with the reason.
ALLOWED: dict[str, dict[str, str]] = {
    r"pictures?": {
        "data/demo": "captions of the demo",
        "tasks/demo_vocabulary.py": "words of the demo's captions",
        "tests/tasks/test_snli_ve.py": "a caption of the demo",
    },
    r"updates?": {".ci/run": "apt-get update"},
    r"beside|besides(?= it| them)": {"tasks/demo_vocabulary.py": "a word of the demo's vocabulary"},
}

# Names of earlier versions. `+` splits each, so that `git grep` of a name does not find this list.
OLD_NAMES = """
write_+whole whole_+file run_+apart run+Apart composed.+plain composed.+make launching.+together
gath+ered sum+med of_+first wait_+for_all first_of_+machine_before_others Stopped+BySignal how_it_+goes_on alone_+in
RestOf+State save_behind_+update Write+Answers Report+Notes Sample+Answers Question+Error answer_+cell chance_+levels
Worker+Rows Evaluation+Cache max_len_behind_+prefix hard_+weight distill.+matches
""".replace("+", "").split()
OLD_CLASSES = "Form Stored Listing Fit Place Interrupted".split()  # banned where a class is made

UPGRADED = {
    "CHANGELOG.md": "lists the renamed keys",
    "runtime/legacy_config.py": "upgrades old configurations",
    "tests/runtime/previous_version": "files of an earlier version",
}
OLD_NAMES_ALLOWED = {
    "hard_+weight".replace("+", ""): UPGRADED,
    "distill.+matches".replace("+", ""): UPGRADED,
    "max_len_behind_+prefix".replace("+", ""): {"ofa/checkpoint/task_settings.py": "loads old files"},
}

TEXT = {".py", ".md", ".yaml", ".sh", ".sbatch", ".toml", ".cff", ".html", ""}
LEFT_OUT = {"LICENSE", "tests/test_language.py", "tests/goldens/README.md"}


def checked_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    return [name for name in listed if Path(name).suffix in TEXT and name not in LEFT_OUT and (ROOT / name).is_file()]


def prose(name: str, text: str) -> str:
    """`text` with all that is not prose replaced by NUL; lines and columns stay."""
    match Path(name).suffix:
        case ".py":
            kept = _python(text)
        case ".md":
            kept = re.sub(r"```.*?```", lambda found: _comments(found[0]), text, flags=re.DOTALL)
        case ".yaml" | ".toml" | ".cff":
            kept = _comments(text)
        case _:
            kept = text.replace("#", " ")
    code = r"`[^`\n]*`|https?://\S+|\]\(\S+?\)|[\w*<>-]+(?:[/_.][\w*<>-]+)+|(?<!\w)--[\w-]+"
    return re.sub(code, lambda found: _nul(found[0]), kept)


def _nul(text: str) -> str:
    return re.sub(r"\S", "\0", text)


def _comments(text: str) -> str:
    lines = []
    for line in text.split("\n"):
        found = re.search(r"(?:^|\s)#+(?!SBATCH)\s", line)
        start = found.start() if found else len(line)
        lines.append(_nul(line[:start]) + line[start:].replace("#", " "))
    return "\n".join(lines)


def _python(text: str) -> str:
    starts = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
    kept = list(_nul(text))

    def keep(token, content):
        start = starts[token.start[0] - 1] + token.start[1]
        kept[start : start + len(content)] = content

    middle = getattr(tokenize, "FSTRING_MIDDLE", None)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            keep(token, token.string.replace("#", " "))
        elif token.type == tokenize.STRING and re.search(r"\w\s+\w", token.string):
            is_format = "f" in token.string[:2].lower()
            content = re.sub(r"\{[^{}]*\}", lambda f: _nul(f[0]), token.string) if is_format else token.string
            keep(token, re.sub(r"^\w*[\"']+|[\"']+$", lambda found: " " * len(found[0]), content))
        elif token.type == middle and " " in token.string:
            keep(token, token.string)
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            keep(token, token.string.replace("_", " "))
    return "".join(kept)


PATTERNS = {phrase: re.compile(rf"\b(?:{phrase})\b".replace(" ", r"\s+"), re.IGNORECASE) for phrase in BANNED}


def _allowed(allowed: dict, key: str, name: str) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in allowed.get(key, ()))


def findings(name: str) -> list[str]:
    text = (ROOT / name).read_text()
    shown = prose(name, text)
    found = [
        (match.start(), f"{' '.join(match[0].split())!r}: {instead}")
        for phrase, instead in BANNED.items()
        if not _allowed(ALLOWED, phrase, name)
        for match in PATTERNS[phrase].finditer(shown)
    ]
    banned = "|".join(re.escape(old) for old in OLD_NAMES if not _allowed(OLD_NAMES_ALLOWED, old, name))
    pattern = rf"(?<![A-Za-z0-9])(?:{banned})(?![A-Za-z0-9])|^class (?:{'|'.join(OLD_CLASSES)})\b"
    found += [
        (match.start(), f"{match[0]!r} is a name of an earlier version")
        for match in re.finditer(pattern, text, re.MULTILINE)
    ]
    return [f"{name}:{text.count(chr(10), 0, at) + 1}: {message}" for at, message in sorted(found)]


@pytest.mark.parametrize("name", checked_files())
def test_a_file_is_in_plain_english_with_current_names(name):
    found = findings(name)
    assert not found, "\n" + "\n".join(found)


def test_exceptions_name_files_that_exist():
    places = {place for allowed in (ALLOWED, OLD_NAMES_ALLOWED) for files in allowed.values() for place in files}
    assert all((ROOT / place).exists() for place in places)


@pytest.mark.parametrize(
    ("name", "text", "is_found"),
    [
        ("a.py", "x = 1  # saved behind the step", True),
        ("a.py", '"""It goes\n    on."""', True),
        ("a.py", "# a job that goes\n# on", True),
        ("a.py", 'raise ValueError(f"{name} was left alone")', True),
        ("a.py", "def test_a_run_starts_anew():\n    pass", True),
        ("a.py", 'metric.update(x)\nkeys = ["pictures"]  # see `pictures`', False),
        ("a.md", "The key `pictures` writes pictures_val.png.", False),
        ("a.md", "Some pictures.", True),
        ("a.md", "```bash\npython train.py pictures=4  # four images\n```", False),
        ("a.yaml", "pictures: 4  # images", False),
        ("a.yaml", "x: 4  # pictures", True),
    ],
)
def test_prose_is_told_from_code(name, text, is_found):
    shown = prose(name, text)
    assert any(pattern.search(shown) for pattern in PATTERNS.values()) == is_found


if __name__ == "__main__":
    print(*(line for name in sys.argv[1:] or checked_files() for line in findings(name)), sep="\n")
