"""The pipes backend: a process pool that needs no semaphore, over one duplex pipe per worker.

     caller                         manager thread                       worker processes
    ┌────────┐  queue   ┌───────────────────────────────┐  task frames  ┌────────────────┐
    │ submit ├─────────►│ has tasks given to workers,   ├══════════════►│ task, task …   │
    │        │          │ takes back what has not begun │◄─── tokens ──►│                │
    │ future │◄─────────┤ reads results, replaces dead  │◄══════════════┤ result         │
    └───┬────┘  result  └───────────────────────────────┘ result frames └────────────────┘
        └── straight to an idle worker ──────────────────────►

Guarantees:
    A task runs at most once. One that crashes its worker fails alone; what that worker had not begun goes to others.
    A worker gets several tasks at once only where they have been short, and gives back what it has not begun when
    another one is idle.
    No worker outlives its parent, nor the pool.

Does not promise:
    That a worker forked before a change sees it, as in the stdlib. With fork all workers are started at once, before
    there is a thread; with the other start methods they are started on demand.
"""
