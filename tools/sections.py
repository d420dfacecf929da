"""Documents that commands write parts of."""

import re
from pathlib import Path


def write_section(document: Path, name: str, text: str) -> None:
    """Put `text` between the marks `<!-- name -->` and `<!-- end -->` of a Markdown document.

    A document without these marks gets a section of that name at its end.
    """
    page = document.read_text(encoding="utf-8")
    if f"<!-- {name} -->" not in page:
        page += f"\n## {name}\n\n<!-- {name} -->\n<!-- end -->\n"
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    page = block.sub(lambda match: f"{match[1]}\n{text.strip()}\n\n{match[2]}", page)
    document.write_text(page, encoding="utf-8")
