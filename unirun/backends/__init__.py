"""The backends: one module for each way of running a task. Each opens an executor or raises ``Refused``."""
