import ctypes

import numpy as np
import pytest

from dapt_jax.training import memory


def test_resident_memory_is_that_of_the_process():
  before = memory.resident()
  held = np.ones(40_000_000, np.uint8)
  assert memory.resident() - before == pytest.approx(held.nbytes / 1e6, abs=5)


@pytest.mark.skipif(not memory.release(), reason='the C library cannot give pages back')
def test_free_pages_go_back_to_the_system():
  libc = ctypes.CDLL(None)
  libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
  blocks = [libc.malloc(100_000) for _ in range(400)]  # each too small for pages of its own
  for block in blocks:
    ctypes.memset(block, 1, 100_000)
  for block in blocks[:-1]:  # the last one keeps the pool's end
    libc.free(block)
  before = memory.resident()
  assert memory.release()
  assert before - memory.resident() > 30
  libc.free(blocks[-1])


def test_nothing_is_done_where_pages_cannot_be_given_back(monkeypatch):
  monkeypatch.setattr(memory, '_trim', lambda: None)
  assert not memory.release()
