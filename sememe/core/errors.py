"""Errors that a user can act on: what is wrong, which rule it breaks, which value, and the way out."""

from collections.abc import Iterable
from difflib import get_close_matches


class SememeError(ValueError):
    """A problem in what the user gave us.  `fix` says what to do and ends the message."""

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(f"{problem}\n  what to do: {fix}")
        self.problem = problem
        self.fix = fix


class DataError(SememeError):
    """The data files or tables break a rule that a run needs."""


class NothingToEmbedError(SememeError):
    """The data holds nothing of the kind that an embedder reads; others may still find something."""


class ConfigError(SememeError):
    """A recipe, a `--set` path or a value in them is not usable."""


class LimitError(SememeError):
    """Something that a run made breaks a limit that its recipe demands."""


class ArtifactError(SememeError):
    """A directory that Sememe wrote earlier is missing, truncated, edited or of another kind."""


class MissingExtraError(SememeError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            fix=f'pip install "sememe[{extra}]"',
        )


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A suggestion for a mistyped `name`: "did you mean 'x'?", or the list of options where none is close."""
    names = sorted(options)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of: {', '.join(names)}" if names else "there is nothing to choose from here"
