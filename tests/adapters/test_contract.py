"""Every adapter whose model is in a file or a folder, behind the contract suite."""

import pytest

from tests.adapters.cases import CASES
from tests.adapters.contract import AdapterContract, Case


@pytest.fixture(scope="module", params=CASES, ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made: Case = request.param(tmp_path_factory.mktemp(request.param.__name__))
    return made


class TestAdapters(AdapterContract):
    pass
