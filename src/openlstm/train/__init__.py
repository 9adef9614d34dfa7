"""Tasks that train a recurrent model from files. The data, the task and the loop know nothing of each other's inside.

Each task, such as `forecast`, has a job, which is trained, and a model, which is used; `task` says what these are.
`loop` trains any job, `config` has the options of all, `runs` makes the folder of a run, `commands` the command line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .task import Trained


def load(path: str | os.PathLike[str]) -> Trained:
    """The trained model in a file that `openlstm train` wrote, of whichever task: see `task.Trained`.

    Its recurrent layers are parts of it, `recurrent`, or `encoder` and `decoder` of seq2seq. Nothing in the file is
    executed. Errors: FileNotFoundError, ValueError; ImportError without what training needs.
    """
    from .. import file
    from .task import kind_of, task

    return task(kind_of(path, file.read_metadata(path))).model.load(path)
