"""The synthetic datasets by name."""

from __future__ import annotations

from collections.abc import Mapping

from vtcli.synthetic.make import Family
from vtcli.synthetic.motion8 import MOTION8
from vtcli.synthetic.motion8b import MOTION8B

FAMILIES: Mapping[str, Family] = {family.name: family for family in (MOTION8, MOTION8B)}
