"""What is wrong with a file whose frames could be read all the same.

Three witnesses: flags of packets and frames, libav's own log of errors, and what the container
states about its length (`vtcli.video.stated`). They are heard per thread, between the start and the
end of a `listen` block, and become sentences: the warnings of a video.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import av.logging

from vtcli.errors import VideoDecodeError

_MAX_MESSAGE = 100
# Log messages that intact files cause, too.
_HARMLESS = (
    "mmco: unref short failure",  # an open GOP at the start of a cut, or after a seek
    "reference picture missing during reorder",
    "Missing reference picture",
    "co located POCs unavailable",
    "number of reference frames",
)

# PyAV leaves out a message that equals the last one, even if that was about another file.
av.logging.set_skip_repeated(False)

_here = threading.local()
_lock = threading.Lock()
_listeners = 0


@dataclass
class Damage:
    """What was noticed: packets flagged by the demuxer, packets and frames that the decoder could
    not decode whole, and messages.
    """

    flagged_packets: int = 0
    failed_packets: int = 0
    flagged_frames: int = 0
    notes: list[str] = field(default_factory=list)
    log: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: Damage) -> None:
        """Add what was noticed elsewhere."""
        self.flagged_packets += other.flagged_packets
        self.failed_packets += other.failed_packets
        self.flagged_frames += other.flagged_frames
        self.notes += other.notes
        self.log += other.log

    def sentences(self) -> tuple[str, ...]:
        """One sentence per kind of damage; empty for an intact file."""
        found = []
        for count, what in (
            (self.flagged_packets, "packets are damaged or incomplete"),
            (self.failed_packets, "packets cannot be decoded"),
            (self.flagged_frames, "frames are decoded with errors"),
        ):
            if count:
                found.append(f"{count} {what}" if count > 1 else f"1 {_singular(what)}")
        messages = [(n, _one_line(m)) for n, m in self._messages() if not m.startswith(_HARMLESS)]
        if messages:
            name, text = messages[0]
            others = f" and {len(messages) - 1} more" if len(messages) > 1 else ""
            found.append(f"the decoder ({name}) reports '{text}'{others}")
        return tuple(dict.fromkeys([*self.notes, *found]))

    def _messages(self) -> list[tuple[str, str]]:
        """Names and texts; several equal ones in a row, and not at the end, are two."""
        groups = [(key, len(list(same))) for key, same in groupby(self.log)]
        every = [entry for key, count in groups for entry in [key] * min(count, 2)]
        if groups and groups[-1][1] > 1:
            every.pop()
        return [(name, text) for _, name, text in every]


def damage() -> Damage:
    """What this thread notes damage in; outside of `listen`, nobody reads it."""
    found = getattr(_here, "damage", None)
    return Damage() if found is None else found


@contextmanager
def listen(to_log: bool = True) -> Iterator[Damage]:
    """Collect what this thread notices of damage inside the block.

    `to_log=False` leaves out libav's log, which must not be heard where a decoder has threads of
    its own: these would wait for the interpreter's lock.
    """
    outer, heard = getattr(_here, "damage", None), Damage()
    _here.damage = heard
    try:
        if not to_log:
            yield heard
            return
        with av.logging.Capture() as log:
            _change_listeners(1)
            try:
                yield heard
            finally:
                _change_listeners(-1)
                heard.log += log
    finally:
        _here.damage = outer


@contextmanager
def without_log() -> Iterator[None]:
    """Leave out what libav logs inside the block, and nothing else that is noticed."""
    outer = damage()
    with listen() as heard:
        yield
    heard.log.clear()
    outer.add(heard)


def refuse_damage(path: str | Path, warnings: Sequence[str]) -> None:
    """Raise VideoDecodeError `corrupt` if there are warnings."""
    if warnings:
        raise VideoDecodeError(
            path,
            "corrupt",
            f"is damaged ({'; '.join(warnings)}), and --strict refuses it; copy or download it "
            "again, or leave --strict out",
        )


def _change_listeners(change: int) -> None:
    """Switch libav's log on for the first listener, and off after the last."""
    global _listeners
    with _lock:
        _listeners += change
        av.logging.set_level(av.logging.ERROR if _listeners else None)


def _singular(what: str) -> str:
    return (
        what.replace("packets are", "packet is")
        .replace("packets", "packet")
        .replace("frames are", "frame is")
    )


def _one_line(message: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "..."
