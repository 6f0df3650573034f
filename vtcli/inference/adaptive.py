"""Views scored until the first class is settled: `--views auto`.

After each view, the gap between the two highest scores is compared with how far scores usually
still move until the last view. `vt eval calibrate --views` measures that spread on stored scores,
chooses the threshold (`vtcli.evaluation.stopping`) and stores both in the model card.

Shape legend: V views, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtcli.errors import UsageError, VideoDecodeError
from vtcli.inference.batching import ViewIndex
from vtcli.inference.scoring import score_slots
from vtcli.inference.stream import Event, Failed, Opened, Stopped, ViewStream

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.inference.settings import PredictSettings
    from vtcli.video.pipeline import ViewFusion

AUTO = "auto"
"""The value of --views."""


@dataclass(frozen=True)
class StopRule:
    """Stops after v views where the gap is at least threshold·spread[v - 1]; see the module.

    views: CLIPSxCROPS, at most. spread: V - 1 values per head.
    """

    views: str
    threshold: float
    spread: Mapping[str, Sequence[float]]
    fusion: ViewFusion

    def stops(self, rows: Sequence[Mapping[str, Tensor]]) -> bool:
        """Whether no view needs to follow these, given by their logits [K] per head.

        With several heads, the first class of each must be settled.
        """
        import torch

        from vtcli.video.views import mean_scores

        for head, spread in self.spread.items():
            if len(rows) > len(spread):
                return True
            mean_K = mean_scores(torch.stack([row[head] for row in rows]), self.fusion)
            if len(mean_K) > 1:
                first, second = mean_K.topk(2).values.tolist()
                if first - second < self.threshold * spread[len(rows) - 1]:
                    return False
        return True


def stop_rule(known: Any, settings: PredictSettings) -> StopRule | None:
    """The rule that the model card `known` has for `--views auto`; None for other views.

    Raises `UsageError` for a card or registry entry that has none, and for settings that would
    change what it was learned on, or make a promise for a fixed number of views.
    """
    if settings.views != AUTO:
        return None
    entry = getattr(known, "adaptive_views", None)
    if not entry:
        raise UsageError(
            "--views auto needs a model that has learned when to stop; evaluate it with --views "
            "4x3 and run vt eval calibrate RUN --views -o calibrated.safetensors"
        )
    for name in ("pipeline", "label_set", "abstain", "coverage"):
        if getattr(settings, name) is not None:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} does not go with --views auto; leave one of them out")
    fusion = known.pipeline.view_fusion
    return StopRule(entry["views"], entry["threshold"], entry["spread"], fusion)


def refuse_auto_views(views: str | None, job: str) -> None:
    """Raise `UsageError` for `--views auto` in a job that has no first class to settle."""
    if views == AUTO:
        raise UsageError(f"{job} takes a fixed number of views; give one, such as --views 4x3")


def score_until(net: Any, clips: Iterable[Tensor], rule: StopRule) -> dict[str, Tensor]:
    """Logits [V,K] per head of the clips [3,T,S,S] of one video, one by one until `rule` stops."""
    import torch

    rows: list[Mapping[str, Tensor]] = []
    for clip in clips:
        rows.append(score_slots(net, {0: clip}, None)[0])
        if rule.stops(rows):
            break
    return {head: torch.stack([row[head] for row in rows]) for head in rows[0]}


class AdaptiveStream(ViewStream):
    """A stream that scores one view after the other of each video until `rule` stops.

    Video n of a list has slot n modulo `slots` in every batch, and a slot takes its next video when
    the one before is settled. So a score depends on the list alone, not on when other videos stop.
    """

    def run_until(self, numbers: Sequence[int], rule: StopRule) -> Generator[Event, None, None]:
        """What becomes of the videos `numbers` of a list: for each one `Failed`, or `Opened`, its
        scores and `Stopped`. The loader must give exactly these videos. Raises what `run` raises.
        """
        count = self.slots or 1
        left = iter(numbers)
        waiting: list[deque[tuple[int, Iterator[Tensor]]]] = [deque() for _ in range(count)]
        active: dict[int, tuple[int, Iterator[Tensor]]] = {}
        rows: dict[int, list[Mapping[str, Tensor]]] = {}
        with closing(iter(self.loader)) as coming:
            while True:
                for slot in range(count):
                    # A slot that is ahead of the others waits: memory for `count` more videos.
                    while (
                        slot not in active
                        and not waiting[slot]
                        and sum(map(len, waiting)) < count
                        and (number := next(left, None)) is not None
                    ):
                        _, (loaded,) = next(coming)
                        if isinstance(loaded, VideoDecodeError):
                            yield Failed(number, loaded)
                        else:
                            clips = self.batches.clips_of(loaded.clips)
                            waiting[number % count].append((number, clips))
                            yield Opened(number, loaded)
                    if slot not in active and waiting[slot]:
                        active[slot] = waiting[slot].popleft()
                        rows[slot] = []
                if not active:
                    return
                views = {s: ViewIndex(n, len(rows[s])) for s, (n, _) in active.items()}
                by_slot = {s: next(clips) for s, (_, clips) in active.items()}
                (scored,) = [*self._score(by_slot, views), *self._finish(0)]
                yield scored
                for slot, logits in zip(sorted(views), scored.logits, strict=True):
                    rows[slot].append(logits)
                    if rule.stops(rows[slot]):
                        yield Stopped(active.pop(slot)[0])
