"""What models cost and how fast they run: `profile` is the door to this room.

from vtcli.profiling import ProfileSettings, profile
report = profile(["vivit-b"], ProfileSettings(timed=True))
"""

from vtcli.profiling.profiler import find_model, profile, select_models
from vtcli.profiling.results import ProfileReport, ProfileSettings

__all__ = ["ProfileReport", "ProfileSettings", "find_model", "profile", "select_models"]
