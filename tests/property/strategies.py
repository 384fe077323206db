"""Any request, any settings, any host: the three values that `decide` takes."""

from hypothesis import strategies as st

from unirun.config import BACKENDS, FLAVORS, START_METHODS, RuntimeConfig
from unirun.host import Host
from unirun.ladder import Request
from unirun.refusal import Failure

FLAGS = st.sampled_from([None, True, False])
WORKERS = st.none() | st.integers(1, 64)

requests = st.builds(
    Request,
    flavor=st.sampled_from(FLAVORS),
    origin=st.sampled_from(["Run", "to_process", "ProcessPoolExecutor"]),
    dropin=st.booleans(),
    max_workers=WORKERS,
    start_method=st.sampled_from([None, *START_METHODS]),
    name=st.none() | st.text(max_size=5),
)
force = st.sampled_from([(None, None), (True, None), (True, False), (None, True), (False, True), (False, False)])
ladders = st.none() | st.lists(st.sampled_from(BACKENDS), min_size=1, unique=True).map(tuple)


@st.composite
def configs(draw: st.DrawFn) -> RuntimeConfig:
    """Return settings that do not contradict themselves."""
    process, threads = draw(force)
    cpu, io = draw(force)
    return RuntimeConfig(
        force_process=process,
        force_threads=threads,
        cpu_bound=cpu,
        io_bound=io,
        max_workers=draw(WORKERS),
        start_method=draw(st.sampled_from([None, *START_METHODS])),
        downgrade=draw(st.sampled_from(["warn", "silent", "error"])),
        ladder=draw(ladders),
        isolation=draw(st.sampled_from([None, "copy", "share"])),
    )


failures = st.builds(
    Failure,
    backend=st.just("processes"),
    stage=st.sampled_from(["import", "construct"]),
    error=st.sampled_from(["OSError", "ImportError"]),
    errno=st.none() | st.integers(1, 40),
    message=st.text(max_size=10),
)
hosts = st.builds(
    Host,
    implementation=st.sampled_from(["cpython", "pypy"]),
    version=st.sampled_from(["3.11.0", "3.15.2"]),
    platform=st.sampled_from(["linux", "darwin", "win32", "emscripten"]),
    gil=st.booleans(),
    usable_cpus=st.integers(1, 128),
    start_methods=st.just(START_METHODS),
    default_start_method=st.sampled_from(START_METHODS),
    no_processes=st.none() | failures,
    daemonic=st.booleans(),
    bootstrapping=st.booleans(),
    subinterpreter=st.booleans(),
    interpreters=st.booleans(),
    main=st.sampled_from(["importable", "missing", "interactive", "unready"]),
    executable=st.booleans(),
)
