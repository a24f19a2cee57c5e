"""A tokenizer found again by its name: Sememe's, one's own where it is imported, and nothing else."""

import numpy as np
import pytest

from sememe.core.errors import ArtifactError, ConfigError
from sememe.sid.fitted import kind_of, restore_tokenizer
from sememe.sid.rqkmeans import FittedResidualKMeans


class OwnTokenizer(FittedResidualKMeans):
    """A tokenizer that Sememe does not know."""


def test_a_tokenizer_is_found_by_its_name() -> None:
    fitted = FittedResidualKMeans((np.array([[0], [5]], np.float32),))
    assert kind_of(fitted) == "sememe.sid.rqkmeans:FittedResidualKMeans"
    assert restore_tokenizer(kind_of(fitted), fitted.state()).codebook_sizes == (2,)
    own = OwnTokenizer(fitted.codebooks)
    assert isinstance(restore_tokenizer(kind_of(own), own.state()), OwnTokenizer)


def test_no_code_is_imported_for_a_name() -> None:
    with pytest.raises(ConfigError, match="antigravity, which is not imported"):
        restore_tokenizer("antigravity:Tokenizer", {})


@pytest.mark.parametrize("kind", ["sememe.sid.gone:Fitted", "sememe.sid.rqkmeans:Gone", "sememe.sid.rqkmeans:Sequence"])
def test_a_name_of_nothing_is_refused(kind: str) -> None:
    with pytest.raises(ArtifactError, match=f"no tokenizer '{kind}'"):
        restore_tokenizer(kind, {})
