from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sememe.core import config
from sememe.core.errors import ConfigError


@dataclass(frozen=True)
class Leafy:
    count: int = 3
    share: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["a", "b"] = "a"
    limit: int | None = None
    on: bool = False


@dataclass(frozen=True)
class Tree:
    leafy: Leafy = Leafy()
    parts: tuple[Leafy, ...] = (Leafy(), Leafy(count=4))
    name: str = "x"
    spare: Leafy | None = None


@dataclass
class Loose:
    count: int = 1


@given(
    st.builds(
        Leafy,
        count=st.integers(),
        share=st.floats(allow_nan=False, allow_infinity=False),
        sizes=st.lists(st.integers(), max_size=3).map(tuple),
        limit=st.none() | st.integers(),
        on=st.booleans(),
    ),
    st.text(),
)
def test_a_tree_survives_the_way_to_json_and_back(leafy: Leafy, name: str) -> None:
    tree = Tree(leafy=leafy, parts=(leafy,), name=name)
    assert config.from_tree(config.to_tree(tree)) == tree


def test_equal_trees_have_equal_hashes_and_a_change_has_another() -> None:
    assert config.tree_hash(Tree()) == config.tree_hash(Tree(leafy=Leafy(count=3)))
    assert config.tree_hash(Tree()) != config.tree_hash(Tree(leafy=Leafy(count=4)))


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("leafy.count", "7", Tree(leafy=Leafy(count=7))),
        ("leafy.share", "1", Tree(leafy=Leafy(share=1.0))),
        ("leafy.sizes", "[3,4,5]", Tree(leafy=Leafy(sizes=(3, 4, 5)))),
        ("leafy.mode", "b", Tree(leafy=Leafy(mode="b"))),
        ("leafy.limit", "9", Tree(leafy=Leafy(limit=9))),
        ("leafy.on", "true", Tree(leafy=Leafy(on=True))),
        ("parts.1.count", "8", Tree(parts=(Leafy(), Leafy(count=8)))),
        ("name", "yes", Tree(name="yes")),
    ],
)
def test_a_setting_is_parsed_by_the_type_of_its_field(path: str, text: str, expected: Tree) -> None:
    assert config.set_path(Tree(), path, text) == expected


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("leafy.cuont", "7", "did you mean 'count'"),
        ("leafi.count", "7", "did you mean 'leafy'"),
        ("leafy", "7", "this is a part"),
        ("parts", "7", "this is a part"),
        ("parts.2.count", "7", "choose one of: 0, 1"),
        ("leafy.count", "3.5", "valid integer"),
        ("leafy.count", "many", "valid integer"),
        ("leafy.mode", "c", "'a' or 'b'"),
        ("leafy.on", "yes", "valid boolean"),
        ("leafy.count.deeper", "1", "there is no setting 'deeper'"),
        ("spare", "x", "what to do"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(path: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.set_path(Tree(), path, text)


def test_diff_names_every_path_that_differs_and_no_other() -> None:
    changed = Tree(leafy=Leafy(count=5), parts=(Leafy(),))
    found = {entry.path: (entry.left, entry.right) for entry in config.diff(Tree(), changed)}
    assert found["leafy.count"] == ("3", "5")
    assert found["parts.1.count"] == ("4", None)
    assert all(path == "leafy.count" or path.startswith("parts.1") for path in found)


def test_what_is_no_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="frozen dataclass"):
        config.to_tree(Loose())


def test_reading_a_tree_never_imports_a_module_of_somebody_else() -> None:
    with pytest.raises(ConfigError, match="not imported"):
        config.from_tree({"part": "antigravity:Leafy"})


def test_a_tree_from_another_version_is_refused_by_the_name_of_the_setting() -> None:
    tree = config.to_tree(Leafy())
    tree["shares"] = 1
    with pytest.raises(ConfigError, match="did you mean 'share'"):
        config.from_tree(tree)


def test_only_dataclasses_can_be_named_in_a_tree() -> None:
    with pytest.raises(ConfigError, match="has no part 'tree_hash'"):
        config.from_tree({"part": "sememe.core.config:tree_hash"})


def test_a_field_that_would_hide_the_class_of_its_part_is_refused() -> None:
    @dataclass(frozen=True)
    class Hiding:
        part: int = 0

    with pytest.raises(ConfigError, match="a field called 'part'"):
        config.to_tree(Hiding())
