"""The supervisor's process: `python -m reviewmill.supervise FOLDER`, the `Spec` on standard input."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from reviewmill.supervise.spec import PATH_BEFORE, Spec
from reviewmill.supervise.supervisor import Supervisor

if __name__ == "__main__":
    spec = Spec.from_json(sys.stdin.read())
    sys.stdin.close()
    os.environ["PYTHONPATH"] = os.environ.pop(PATH_BEFORE, "")
    if not os.environ["PYTHONPATH"]:
        del os.environ["PYTHONPATH"]
    # The files hold what the program says; they are for their owner.
    os.umask(0o077)
    Supervisor(Path(sys.argv[1]), spec).run()
