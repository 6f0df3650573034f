"""The diagnosis as a block that can be pasted into a bug report, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def print_diagnosis(diagnosis: Mapping[str, Mapping[str, Any]], format: str) -> None:
    """Print sections of name -> value; plain text on purpose, so that it survives pasting."""
    if format == "json":
        print(json.dumps(diagnosis, indent=2))
        return
    for section, facts in diagnosis.items():
        print(section)
        for name, value in facts.items():
            print(f"  {name:<18} {value}")
