"""The pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run(?:, `([^`]+)`)?: ([^\n]+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: the comments above it, its language, "" where it has none, and its text.

    `<!-- not run: REASON -->` above a block says that tests do not run it, and
    `<!-- not run, `vt models push`: REASON -->` that they do not run lines that begin so.
    """

    comments: str
    language: str
    text: str

    def reason(self, command: str) -> str:
        """Why a command of the block is not run; "" where it is."""
        for begin, reason in _NOT_RUN.findall(self.comments):
            if command.startswith(begin):
                return str(reason)
        return ""

    @property
    def file(self) -> str:
        """The file that the first line names in a comment, "" where it names none."""
        match = re.match(r"# ([\w./-]+\.(?:py|toml))\n", self.text)
        return match[1] if match else ""

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block without comments; those behind `$ ` of a console."""
        if self.language == "console":
            return [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]
        lines = [line.split("  #")[0].strip() for line in self.text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """All fenced blocks of a page, or those of one language."""
    found = [Block(*match) for match in _FENCE.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if language in (None, block.language)]
