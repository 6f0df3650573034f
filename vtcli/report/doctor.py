"""The output of `vt doctor`: a block of plain text for a bug report, or JSON.

The facts are collected in `vtcli.doctor`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def print_diagnosis(diagnosis: Mapping[str, Mapping[str, Any]], format: str) -> None:
    """Print sections of name -> value on standard output; `format` is `table` or `json`."""
    if format == "json":
        print(json.dumps(diagnosis, indent=2))
        return
    # Without styles or a box: the block is pasted into issues.
    for section, facts in diagnosis.items():
        print(section)
        for name, value in facts.items():
            print(f"  {name:<18} {value}")
