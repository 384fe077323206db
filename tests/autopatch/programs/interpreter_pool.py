"""Tasks of an interpreter pool that open thread pools."""
# mypy: ignore-errors

from concurrent.futures import InterpreterPoolExecutor, ThreadPoolExecutor


def pooled(number):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(abs, number).result(), ThreadPoolExecutor.__module__


if __name__ == "__main__":
    with InterpreterPoolExecutor(2) as pool:
        print(list(pool.map(pooled, [-1, -2, -3])))
    print(InterpreterPoolExecutor.__module__, ThreadPoolExecutor.__module__)
