"""Environments of local processes that form one job."""

from __future__ import annotations

import os
import socket


def environments(count: int) -> list[dict[str, str]]:
  """One environment a process, joined by a free port of this machine if there are several."""
  if count == 1:
    return [dict(os.environ)]
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  joined = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(count)}
  return [{**os.environ, **joined, 'JAX_PROCESS_ID': str(index)} for index in range(count)]
