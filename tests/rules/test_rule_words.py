"""What must not stand in any file: who worked where on what, and the addresses of package registries."""

import re

from sources import told, tracked_texts

# Put together from halves, so that this file does not find itself.
WORKPLACE = [
    r"\bissues? #?\d",
    r"\bsession #\d",
    r"\bsession \d+ (did|was|of the project)",
    "/wo" + "rk/",
    "/tmp/" + "(bash_jobs|plan|fresh)",
    "/opt/" + "(wheels|pypi)",
    "/ro" + "ot/",
    r"/home/\w",
    r"\b(contracts|ecosystem|anchors)" + r"\.md\b",
    r"\bCE" + r"O\b",
]
REGISTRIES = [
    "py" + r"pi\.org",
    "python" + r"hosted\.org",
    r"download\." + r"pytorch\.org",
    "npm" + r"js\.(org|com)",
    r"(deb|security)\." + r"debian\.org",
    r"crates\." + "io",
    r"anaconda\." + r"(org|com)",
]


def forbidden(name: str, text: str, *, patterns: list[str]) -> list[str]:
    """`name:line: match` for each match of a pattern."""
    every = re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)
    lines = enumerate(text.splitlines(), start=1)
    return [f"{name}:{number}: {match.group()!r}" for number, line in lines for match in every.finditer(line)]


def test_no_file_speaks_of_the_workplace() -> None:
    found = [line for name, text in tracked_texts() for line in forbidden(name, text, patterns=WORKPLACE)]
    assert not found, told(found)
    for text in ("see issue " + "#12", "in " + "/wo" + "rk/main", "as contracts" + ".md says", "the CE" + "O"):
        assert forbidden("x", text, patterns=WORKPLACE), text
    for text in ("session_id 3", "the network/work ratio", "an issue"):
        assert not forbidden("x", text, patterns=WORKPLACE), text


def test_no_file_names_a_package_registry() -> None:
    found = [line for name, text in tracked_texts() for line in forbidden(name, text, patterns=REGISTRIES)]
    assert not found, told(found)
    assert forbidden("x", "--index-url https://py" + "pi.org/simple", patterns=REGISTRIES)
    assert forbidden("x", "https://download" + ".pytorch" + ".org/whl/cpu", patterns=REGISTRIES)
