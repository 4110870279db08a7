"""The worked examples of docs/extend.md."""

import re

from helpers.runs import ROOT


def write_example(title, folder):
    """Writes the files of the section `title`, each printed after its path under `my_files/`, into `folder`."""
    text = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    for path, content in re.findall(r"`my_files/(\S+)`[^`]*```(?:python|yaml)\n(.*?)```", section, flags=re.DOTALL):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    return folder
