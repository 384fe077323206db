"""Small real hosts that refuse semaphores, processes or threads, so that no test has to mock a refusal."""
