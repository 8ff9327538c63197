"""The mark of the campaign, which takes minutes."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "faults: the fault campaign, of three minutes; run when FAULTS is set")
