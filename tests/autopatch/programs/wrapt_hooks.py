"""A program that has wrapt call it when ``concurrent.futures.thread`` is imported, and wraps ``submit`` there."""
# mypy: ignore-errors

import site
import sys
import sysconfig

import wrapt

order = sys.argv[1]
calls, seen = [], []


def count(wrapped, instance, args, kwargs):
    calls.append(wrapped)
    return wrapped(*args, **kwargs)


def register():
    @wrapt.when_imported("concurrent.futures.thread")
    def wrap(module):
        seen.append(type(module.__loader__).__name__)
        wrapt.wrap_function_wrapper(module, "ThreadPoolExecutor.submit", count)


if order != "after":
    register()
if order == "below":
    # The finder on top is not the hook's any more, so its startup file puts one there when it is processed again.
    site.addsitedir(sysconfig.get_path("purelib"))

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor  # noqa: E402

if order == "after":
    register()

if __name__ == "__main__":
    print(type(sys.meta_path[0]).__name__ == "ImportHookFinder", file=open("on_top", "w"))  # noqa: SIM115
    with ThreadPoolExecutor(2) as pool:
        print(pool.submit(abs, -3).result(), pool.submit(abs, -4).result(), list(pool.map(abs, [-5, -6])), len(calls))
    with ProcessPoolExecutor(1) as pool:
        print(pool.submit(abs, -3).result(), len(calls))
    print(seen)
    print(ThreadPoolExecutor.__module__)
