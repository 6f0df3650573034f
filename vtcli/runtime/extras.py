"""Optional packages: the one sentence that names a missing one and the extra that installs it."""

from __future__ import annotations


def missing_package(what: str, package: str, extra: str) -> str:
    """The sentence for something (`what`, in the plural) that needs a package of an extra."""
    return (
        f"{what} need the package {package}, which is not installed; install it with: "
        f"pip install 'vtcli[{extra}]'"
    )
