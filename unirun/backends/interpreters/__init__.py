"""The interpreters backend: a thread and a sub-interpreter for each worker, in one process. Python 3.14 and later."""
