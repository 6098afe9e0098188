"""The example of the README, runnable: `python -m inngest_agents.demo "I'd like two mugs"`.

`agents` holds the agents and tools as a user would write them, `worker` the Inngest function that runs them. The rest
is what a demonstration needs: a shop whose books can be checked (`order_book`, `executions`), a model that needs no key
(`offline_model`), and the show (`__main__`), which kills the worker and proves that nothing happened twice.
"""
