"""The record of one classifier output: its name, its size and its class names in index order.

Datasets, registry entries and model cards all describe their outputs with this one record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vtcli.errors import DataError
from vtcli.labels import list_label_files, load_labels


@dataclass(frozen=True)
class HeadSpec:
    """One classifier output with `size` logits.

    labels: class names in index order, empty where none are known; confidence: how the order is
    known, "" where nothing states it; label_list: the list in vtcli/labels (or the user's .txt
    file) that the names come from, "" where they come from elsewhere.
    """

    name: str
    size: int
    labels: tuple[str, ...] = ()
    confidence: str = ""
    label_list: str = ""

    @classmethod
    def from_list(cls, name: str, size: int, label_list: str, confidence: str = "") -> HeadSpec:
        """A head whose class names are those of a list, or unknown where `label_list` is "".

        Raises `DataError` where there is no such list or it has another number of names.
        """
        labels = load_labels(label_list) if label_list else ()
        if label_list and len(labels) != size:
            raise DataError(
                f"class list '{label_list}' has {len(labels)} names, the head {size} classes"
            )
        return cls(name, size, labels, confidence, label_list)

    def known_orders(self) -> Mapping[str, tuple[str, ...]]:
        """Every class list of this head's dataset by name, the head's own list first."""
        if not self.label_list:
            return {}
        dataset = self.label_list.split(".")[0]
        others = [
            name
            for name in list_label_files()
            if name.split(".")[0] == dataset and name != self.label_list
        ]
        return {name: load_labels(name) for name in (self.label_list, *others)}
