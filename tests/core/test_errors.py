from sememe.core.errors import DataError, MissingExtraError, did_you_mean


def test_a_user_error_is_a_value_error_that_ends_with_the_way_out() -> None:
    error = DataError("column 'time' is missing", fix="name it in data.toml")
    assert isinstance(error, ValueError)
    assert str(error).endswith("what to do: name it in data.toml")


def test_a_missing_extra_names_the_install_command() -> None:
    assert 'pip install "sememe[text]"' in str(MissingExtraError("wordllama", extra="text", purpose="static vectors"))


def test_suggestions_name_the_nearest_or_all() -> None:
    assert did_you_mean("tigre", ["tiger", "sasrec"]) == "did you mean 'tiger'?"
    assert did_you_mean("zzz", ["b", "a"]) == "choose one of: a, b"
