"""Tasks that train a recurrent model from files. The data, the task and the loop know nothing of each other's inside.

`data` reads and cuts a series, `forecast` is the task, `scores` its baselines and errors, `figure` its picture, `loop`
trains any module, and `commands` is the command line.
"""
