"""How ``map`` travels: several items in one task where they are short.

    items ─► unsent ─► batch ─► submit ─► worker ─► done ─┬─► results, in order
               ▲                                          └─► how long an item takes ─► size of the next batch
               └── what a batch that took too long has left ◄┘

The first items travel one by one. Where they turn out to be short the next batches grow, to a few milliseconds of
work, and shrink towards the end so that the workers finish together. An item that takes longer is a task like any
other.

Guarantees:
    Order, exceptions at their place and the time limit are those of ``Executor.map``. Items in a batch share nothing;
    see ``backends.batch``, which runs in the worker.
    Few batches are on their way at once; the others wait here. Whoever closes the iterator takes them back.
    What is submitted after a ``map`` comes after its items, those of a later ``map`` too; and what it has not submitted
    yet at ``shutdown`` is submitted, before the pool ends: as if all had been at the call.

Does not promise:
    That short items which wait for each other run at once: they may be in one batch. Inline, that an iterable may wait
    for what its own short items do. That what a batch has left that took too long comes before what was submitted
    meanwhile. Nor the results of the items before one that ends its worker: they are lost with their batch.
"""
