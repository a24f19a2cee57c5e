"""The option `--set path=value`, which may be given several times."""

from collections.abc import Iterable

from sememe.core.errors import ConfigError


def read_settings(texts: Iterable[str], *, example: str) -> dict[str, str]:
    """Path -> value, as typed; of two values of a path, the last one.  Raises ConfigError for a text without "="."""
    found: dict[str, str] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text} has no value", fix=f"write --set path=value, e.g. --set {example}")
        found[path.strip()] = value.strip()
    return found
