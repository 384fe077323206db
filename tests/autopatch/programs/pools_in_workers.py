"""Workers of multiprocessing, and of a pool, that open pools themselves."""
# mypy: ignore-errors

import multiprocessing
import sys


def square(number):
    return number * number


def pooled(kinds):
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    found = [multiprocessing.current_process().daemon]
    for kind in kinds.split():
        options = {"mp_context": multiprocessing.get_context(sys.argv[1])} if kind == "processes" else {}
        cls = ProcessPoolExecutor if kind == "processes" else ThreadPoolExecutor
        with cls(2, **options) as pool:
            found += [cls.__module__, pool.submit(square, 3).result(), list(pool.map(square, range(4)))]
    return found


def send(connection, kinds):
    connection.send(pooled(kinds))


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    if sys.argv[2] == "pools before":  # a fork copies the hook, and the classes in place
        print(pooled("threads"))
    reader, writer = context.Pipe(False)
    process = context.Process(target=send, args=(writer, "threads processes"))
    process.start()
    print("Process", reader.recv())
    process.join()
    print(process.exitcode)
    with context.Pool(1) as pool:
        print("Pool", pool.apply(pooled, ("threads",)))
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=context) as pool:
        print("ProcessPoolExecutor", pool.submit(pooled, "threads processes").result())
