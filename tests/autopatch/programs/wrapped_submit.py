"""A program in which somebody has replaced ``ThreadPoolExecutor.submit``: sentry-sdk, or an assignment."""
# mypy: ignore-errors

import asyncio
import sys

if sys.argv[2] == "imported before":
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
calls = []

if sys.argv[1] == "sentry":
    import sentry_sdk
    from sentry_sdk.integrations.threading import ThreadingIntegration

    class Transport(sentry_sdk.transport.Transport):
        def capture_envelope(self, envelope):
            pass

    sentry_sdk.init(
        dsn="https://key@localhost/1",
        transport=Transport,
        traces_sample_rate=1.0,
        integrations=[ThreadingIntegration(propagate_scope=True)],
        default_integrations=False,
    )

    def task():
        frame = sys._getframe()
        while frame := frame.f_back:  # the function that it submits instead calls the task
            if frame.f_code.co_name == "wrapped_fn":
                calls.append(frame)
        return sentry_sdk.get_isolation_scope()._tags.get("job"), sentry_sdk.get_current_span() is not None

else:
    import concurrent.futures

    original = concurrent.futures.ThreadPoolExecutor.submit

    def submit(self, fn, /, *args, **kwargs):
        calls.append(fn)
        return original(self, fn, *args, **kwargs)

    concurrent.futures.ThreadPoolExecutor.submit = submit

    def task():
        return "task"


if sys.argv[2] == "imported after":
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor


def main():
    with ThreadPoolExecutor(2) as pool:
        calls.clear()
        print(pool.submit(task).result(), len(calls))
        print(pool.submit(task).result(), len(calls))
        print(*pool.map(lambda n: task(), range(3)), len(calls))
    calls.clear()
    print(asyncio.run(asyncio.to_thread(task)), len(calls))
    calls.clear()
    with ProcessPoolExecutor(1) as pool:
        print(pool.submit(abs, -3).result(), len(calls))
    print(ThreadPoolExecutor.__module__, ProcessPoolExecutor.__module__)


if __name__ == "__main__":
    if sys.argv[1] == "sentry":
        with sentry_sdk.start_transaction(name="transaction"):
            sentry_sdk.set_tag("job", "mine")
            main()
    else:
        main()
