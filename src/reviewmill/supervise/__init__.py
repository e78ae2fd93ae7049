"""Programs that we run beside us: detached, watched, restarted, with their log kept short, and ended whole.

`start` leaves a supervisor behind (a small process of ours, in a session of its own), which runs the program. A folder
holds what is known of it; whoever has the folder can ask (`status`), read (`log_tail`) and end (`stop`).
"""

from reviewmill.supervise.control import log_tail, start, status, stop
from reviewmill.supervise.spec import Spec, State, Status

__all__ = ["Spec", "State", "Status", "log_tail", "start", "status", "stop"]
