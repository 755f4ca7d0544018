"""What tests of the C kernels share."""

from __future__ import annotations

import pytest

from kernels.native_kernels import NativeKernels, native_kernels


@pytest.fixture
def kernels() -> NativeKernels:
    kernels = native_kernels()
    assert kernels is not None
    return kernels
