"""Script: one app under many command lines, each in a fork, so that imports are paid once.

Prints, as JSON, `[[exit code, standard output, standard error], ...]`.
"""

import json
import os
import sys
import tempfile

from experiments import flags, pipeline


def run(arguments):
  files = [tempfile.TemporaryFile('w+') for _ in range(2)]  # noqa: SIM115
  pid = os.fork()
  if pid == 0:
    for number, file in enumerate(files, start=1):
      os.dup2(file.fileno(), number)
    code = 1
    try:
      sys.argv = ['pipeline', *arguments]
      flags.run(pipeline.main)
      code = 0
    except SystemExit as error:
      code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
      print(f'{type(error).__name__}: {error}', file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
  texts = []
  for file in files:
    file.seek(0)
    texts.append(file.read())
  return [code, *texts]


if __name__ == '__main__':
  print(json.dumps([run(arguments) for arguments in json.loads(sys.argv[1])]))
